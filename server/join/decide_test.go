package join

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/token/tokensecret"
)

func parse(t *testing.T, text string) token.Token {
	t.Helper()
	parsed, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestDecideTheOwnToken(t *testing.T) {
	t.Parallel()
	var (
		fresh                     = parse(t, "ffffff.ffffffffffffffff")
		inFile                    = parse(t, "aaaaaa.1111111111111111")
		inCluster                 = parse(t, "bbbbbb.2222222222222222")
		rotated                   = parse(t, "cccccc.3333333333333333")
		chosen                    = parse(t, "dddddd.4444444444444444")
		chosenOverOtherSecretOfID = parse(t, "bbbbbb.9999999999999999")
		agents                    = tokensecret.Record{Token: parse(t, "eeeeee.5555555555555555"), Role: tokensecret.Agent}.Secret()
	)
	own := func(t token.Token, generation int64) *corev1.Secret {
		return tokensecret.OwnRecord(t, generation).Secret()
	}
	weakened := own(inCluster, 2)
	weakened.Data["expiration"] = []byte("2030-01-01T00:00:00Z")
	weakened.Labels["colour"] = "green"

	for _, c := range []struct {
		name         string
		chosen, file token.Token
		secrets      []*corev1.Secret
		want         token.Token
		create       bool
		update       bool
		generation   int64
		removed      []string
	}{
		{name: "first start", want: fresh, create: true},
		{name: "first start with a choice", chosen: chosen, want: chosen, create: true},
		{name: "as always", file: inFile, secrets: []*corev1.Secret{own(inFile, 4), agents}, want: inFile},
		{name: "as always with a choice", chosen: chosen, file: chosen, secrets: []*corev1.Secret{own(chosen, 4)}, want: chosen},
		{name: "the file is lost", secrets: []*corev1.Secret{own(inCluster, 1), agents}, want: inCluster},
		{name: "the datastore is new", file: inFile, secrets: []*corev1.Secret{agents}, want: inFile, create: true},
		{name: "rotated", file: inFile, secrets: []*corev1.Secret{own(inCluster, 1)}, want: inCluster},
		{
			name: "rotation was cut off", file: inFile, secrets: []*corev1.Secret{own(rotated, 2), own(inFile, 1), agents},
			want: rotated, removed: []string{"bootstrap-token-aaaaaa"},
		},
		{
			name: "an old snapshot was restored, but the configuration names the token", chosen: chosen, file: chosen,
			secrets: []*corev1.Secret{own(inCluster, 5)}, want: chosen, create: true, generation: 6,
			removed: []string{"bootstrap-token-bbbbbb"},
		},
		{
			name: "the same id with another secret", chosen: chosenOverOtherSecretOfID,
			secrets: []*corev1.Secret{own(inCluster, 5)}, want: chosenOverOtherSecretOfID, update: true, generation: 6,
		},
		{name: "somebody weakened it", file: inCluster, secrets: []*corev1.Secret{weakened}, want: inCluster, update: true, generation: 2},
		{name: "an agents' token is chosen", chosen: parse(t, "eeeeee.5555555555555555"), secrets: []*corev1.Secret{agents},
			want: parse(t, "eeeeee.5555555555555555"), update: true},
	} {
		configured := c.chosen.ID() != ""
		for _, s := range c.secrets {
			if configured && s.Labels != nil {
				s.Annotations["limpet.io/token-configured"] = "true"
			}
		}
		d := decide(situation{secrets: c.secrets, chosen: c.chosen, configured: configured, file: c.file, fresh: fresh, now: time.Now()})
		if !d.own.Equal(c.want) {
			t.Errorf("%s: own token %s, want %s", c.name, d.own, c.want)
		}
		if (d.create != nil) != c.create || (d.update != nil) != c.update {
			t.Errorf("%s: create %v, update %v; want %v, %v", c.name, d.create != nil, d.update != nil, c.create, c.update)
		}
		for _, s := range []*corev1.Secret{d.create, d.update} {
			if s == nil {
				continue
			}
			r, err := tokensecret.Read(s)
			if err != nil || !r.Token.Equal(c.want) || !r.Own || r.Role != tokensecret.Server || !r.Expires.IsZero() || r.Generation != c.generation || r.Configured != configured {
				t.Errorf("%s: writes %+v, %v", c.name, r, err)
			}
			if string(s.Data["usage-bootstrap-authentication"]) != "true" {
				t.Errorf("%s: the Secret lets nobody in", c.name)
			}
		}
		var removed []string
		for _, s := range d.remove {
			removed = append(removed, s.Name)
		}
		if !slices.Equal(removed, c.removed) {
			t.Errorf("%s: removes %v, want %v", c.name, removed, c.removed)
		}
		if c.name == "somebody weakened it" && d.update != nil && d.update.Labels["colour"] != "green" {
			t.Errorf("%s: labels of others are lost", c.name)
		}
	}
}

// What was decided and carried out needs nothing more.
func TestDecideIsStable(t *testing.T) {
	t.Parallel()
	now := time.Now()
	fresh := token.Generate()
	d := decide(situation{fresh: fresh, now: now})
	again := decide(situation{secrets: []*corev1.Secret{d.create}, file: fresh, fresh: token.Generate(), now: now})
	if again.create != nil || again.update != nil || len(again.remove) > 0 || !again.next.IsZero() || !again.own.Equal(fresh) {
		t.Errorf("decides %+v after its own decision", again)
	}
}

func TestDecideWhenTokensGo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	with := func(id string, ttl time.Duration) *corev1.Secret {
		r := tokensecret.Record{Token: parse(t, id+".0123456789abcdef"), Role: tokensecret.Agent}
		if ttl != 0 {
			r.Expires = now.Add(ttl)
		}
		return r.Secret()
	}
	broken := with("broken", 0)
	broken.Data["expiration"] = []byte("soon")
	own := tokensecret.OwnRecord(token.Generate(), 0).Secret()
	d := decide(situation{now: now, secrets: []*corev1.Secret{
		own, broken, with("ever00", 0), with("later0", 90*time.Hour), with("valid0", time.Hour),
		with("recent", -time.Hour), with("old000", -24*time.Hour), with("older0", -100*time.Hour),
	}})
	var removed []string
	for _, s := range d.remove {
		removed = append(removed, s.Name)
	}
	if want := []string{"bootstrap-token-old000", "bootstrap-token-older0"}; !slices.Equal(removed, want) {
		t.Errorf("removes %v, want %v", removed, want)
	}
	if want := now.Add(23 * time.Hour); !d.next.Equal(want) {
		t.Errorf("looks again at %v, want %v", d.next, want)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	valid := parse(t, "valid0.0123456789abcdef")
	expired := parse(t, "expire.0123456789abcdef")
	secrets := []*corev1.Secret{
		tokensecret.Record{Token: valid, Role: tokensecret.Agent, Expires: now.Add(time.Hour)}.Secret(),
		tokensecret.Record{Token: expired, Role: tokensecret.Agent, Expires: now.Add(-time.Hour)}.Secret(),
	}
	for text, want := range map[string]State{
		valid.Bootstrap():         Valid,
		expired.Bootstrap():       Expired,
		"expire.0123456789abcdee": Unknown, // the id of an expired one says nothing
		"valid0.0123456789abcdee": Unknown,
		"nobody.0123456789abcdef": Unknown,
	} {
		v := judge(secrets, parse(t, text), now)
		if v.State != want || (v.Expired != nil) != (want == Expired) {
			t.Errorf("judge(%s) = %+v, want %s", strings.Split(text, ".")[0], v, want)
		}
	}
}
