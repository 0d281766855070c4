package tokenctl

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/internal/config"
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

func TestIDs(t *testing.T) {
	t.Parallel()
	full := parse(t, "cccccc.0123456789abcdef").WithCA(token.HashCA([]byte("x"))).String()
	got, err := idsOf([]string{"aaaaaa", "bbbbbb.0123456789abcdef", full, "aaaaaa"})
	if want := []string{"aaaaaa", "bbbbbb", "cccccc"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("ids %v, %v; want %v", got, err, want)
	}
	for _, wrong := range []string{"", "Aaaaaa", "aaaaaaa", "aaaaaa.SECRETSECRETSECR"} {
		if _, err := idsOf([]string{"aaaaaa", wrong}); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%q: error %v", wrong, err)
		}
	}
}

func TestPick(t *testing.T) {
	t.Parallel()
	found := []corev1.Secret{
		*tokensecret.OwnRecord(parse(t, "aaaaaa.0123456789abcdef"), 3).Secret(),
		*tokensecret.Record{Token: parse(t, "bbbbbb.0123456789abcdef"), Role: tokensecret.Agent}.Secret(),
		*tokensecret.Record{Token: parse(t, "cccccc.0123456789abcdef"), Role: tokensecret.Agent}.Secret(),
	}
	chosen, err := pick(found, []string{"cccccc"})
	if err != nil || len(chosen) != 1 || chosen[0].Name != "bootstrap-token-cccccc" {
		t.Errorf("picked %v, %v", chosen, err)
	}
	for _, c := range []struct {
		ids  []string
		says []string
	}{
		{[]string{"bbbbbb", "xxxxxx", "yyyyyy"}, []string{"xxxxxx, yyyyyy", "nothing was deleted"}},
		{[]string{"bbbbbb", "aaaaaa"}, []string{"aaaaaa is the server's own token", "limpet token rotate"}},
	} {
		chosen, err := pick(found, c.ids)
		if err == nil || chosen != nil {
			t.Errorf("%v: picked %v, %v", c.ids, chosen, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%v: %v has to say %q", c.ids, err, text)
			}
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	own := tokensecret.OwnRecord(parse(t, "aaaaaa.1111111111111111"), 3).Secret()
	valid := tokensecret.Record{Token: parse(t, "bbbbbb.2222222222222222"), Role: tokensecret.Agent, Description: "shop 17", Expires: now.Add(3 * time.Hour)}.Secret()
	expired := tokensecret.Record{Token: parse(t, "cccccc.3333333333333333"), Role: tokensecret.Agent, Expires: now.Add(-2 * time.Hour)}.Secret()
	broken := tokensecret.Record{Token: parse(t, "dddddd.4444444444444444"), Role: tokensecret.Agent}.Secret()
	broken.Data["token-secret"] = []byte("short")
	var all []listed
	for _, s := range []*corev1.Secret{own, valid, expired, broken} {
		all = append(all, show(*s, now))
	}
	var out bytes.Buffer
	if err := printTable(&out, all, now); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range [][]string{
		{"ID", "ROLE", "EXPIRES", "DESCRIPTION"},
		{"aaaaaa", "server", "never", "own token"},
		{"bbbbbb", "agent", "in 3h", "shop 17"},
		{"cccccc", "agent", "expired 120m ago"},
		{"dddddd", "lets nobody in", "has 5 characters"},
	} {
		for _, text := range want {
			if i >= len(lines) || !strings.Contains(lines[i], text) {
				t.Errorf("line %d has to show %q:\n%s", i, text, out.String())
			}
		}
	}
	for _, secret := range []string{"1111111", "2222222", "3333333", "short"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the list shows a secret:\n%s", out.String())
		}
	}
}

// A rotation must not bring about that the next start refuses the configuration.
func TestRotateFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	one, other := parse(t, "aaaaaa.1111111111111111"), parse(t, "bbbbbb.2222222222222222")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(one.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		token, file string
		given, want token.Token
		says        string
	}{
		{name: "nothing said", want: token.Token{}},
		{name: "given", given: other, want: other},
		{name: "configured", token: one.String(), want: one},
		{name: "configured in a file", file: file, want: one},
		{name: "both the same", file: file, given: one, want: one},
		{name: "both, different", token: one.String(), given: other, says: "the next start would refuse"},
		{name: "no file", file: file + "x", says: "token-file"},
		{name: "malformed", token: "topsecret", says: "the configuration's token"},
	} {
		control := Control{Config: config.Server{Node: config.Node{Token: c.token, TokenFile: c.file}}}
		got, err := control.wanted(c.given)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "1111") || strings.Contains(err.Error(), "topsecret") {
				t.Errorf("%s: error %v has to say %q, without secrets", c.name, err, c.says)
			}
			continue
		}
		if err != nil || !got.Equal(c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got.ID(), err, c.want.ID())
		}
	}
}

func TestNoServerHere(t *testing.T) {
	t.Parallel()
	control := Control{Config: config.Server{Node: config.Node{DataDir: t.TempDir()}}}
	err := control.List(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("error %v has to name --data-dir", err)
	}
}
