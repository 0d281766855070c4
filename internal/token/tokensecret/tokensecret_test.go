package tokensecret_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	secretutil "k8s.io/cluster-bootstrap/util/secrets"

	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/token/tokensecret"
)

func TestRecordSurvivesTheSecret(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, want := range []tokensecret.Record{
		{Token: token.Generate(), Role: tokensecret.Agent, Description: "shop 17", Expires: now.Add(time.Hour)},
		{Token: token.Generate(), Role: tokensecret.Agent},
		tokensecret.OwnRecord(token.Generate(), 7),
	} {
		secret := want.Secret()
		got, err := tokensecret.Read(secret)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v, want %+v", got, want)
		}
		// As the API server understands it.
		if id, ok := secretutil.ParseName(secret.Name); !ok || id != want.Token.ID() {
			t.Errorf("upstream reads id %q from the name %s", id, secret.Name)
		}
		groups, err := secretutil.GetGroups(secret)
		if err != nil || !strings.Contains(strings.Join(groups, " "), "system:bootstrappers:limpet:"+string(want.Role)+"s") {
			t.Errorf("upstream reads groups %v, %v", groups, err)
		}
		for _, at := range []time.Time{now, now.Add(time.Hour - time.Second), now.Add(time.Hour), now.Add(2 * time.Hour)} {
			if got, upstream := want.Expired(at), secretutil.HasExpired(secret, at); got != upstream {
				t.Errorf("expired at %v: %v, upstream says %v", at, got, upstream)
			}
		}
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*corev1.Secret){
		"type":       func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque },
		"id":         func(s *corev1.Secret) { s.Data["token-id"] = []byte("ABCDEF") },
		"another id": func(s *corev1.Secret) { s.Data["token-id"] = []byte("abcdef") },
		"secret":     func(s *corev1.Secret) { s.Data["token-secret"] = []byte("topsecret") },
		"no secret":  func(s *corev1.Secret) { delete(s.Data, "token-secret") },
		"expiration": func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") },
	} {
		secret := tokensecret.Record{Token: token.Generate(), Role: tokensecret.Agent}.Secret()
		spoil(secret)
		_, err := tokensecret.Read(secret)
		if err == nil || !strings.Contains(err.Error(), secret.Name) {
			t.Errorf("%s: error %v has to name the Secret", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: the error holds the secret: %v", name, err)
		}
	}
}

func TestNewest(t *testing.T) {
	t.Parallel()
	older, newer := tokensecret.OwnRecord(token.Generate(), 3), tokensecret.OwnRecord(token.Generate(), 10)
	other := tokensecret.Record{Token: token.Generate(), Role: tokensecret.Agent, Generation: 99}
	got, ok := tokensecret.Newest([]tokensecret.Record{other, newer, older})
	if !ok || !got.Token.Equal(newer.Token) {
		t.Errorf("newest is %+v, %v", got, ok)
	}
	if _, ok := tokensecret.Newest([]tokensecret.Record{other}); ok {
		t.Error("a token of others counts as the server's own")
	}
}
