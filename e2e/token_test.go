package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/token"
)

// Everything about tokens that needs no second machine, on a server whose token
// was chosen beforehand.
func TestTokens(t *testing.T) {
	t.Parallel()
	chosen, err := token.New("first0", "chosenbeforehand")
	if err != nil {
		t.Fatal(err)
	}
	w := &tokenWorld{cluster: ownCluster(t, 1, "--env", "LIMPET_TOKEN="+chosen.Bootstrap())}
	w.seen(chosen)
	w.ownToken(t, chosen)
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"anonymous", w.anonymous}, {"settings", w.settings}, {"create", w.create}, {"expire", w.expire},
		{"delete", w.delete}, {"wrong input", w.wrongInput}, {"wrong server token", w.wrongServerToken},
		{"heal", w.heal}, {"rotate", w.rotate}, {"no secret in the log", w.log},
	} {
		if !t.Run(step.name, step.run) { // one after another: they share the server's token
			return
		}
	}
}

func (w *tokenWorld) anonymous(t *testing.T) {
	want, err := os.ReadFile(w.path(t, node1, dataDir+"/server/tls/server-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if code, got := w.http(t, http.MethodGet, "/cacerts", ""); code != http.StatusOK || got != string(want) {
		t.Errorf("/cacerts: %d %q, want the server's certificate", code, got)
	}
	for _, path := range []string{"/version", "/healthz", "/livez", "/readyz"} {
		if code, _ := w.http(t, http.MethodGet, path, ""); code != http.StatusOK {
			t.Errorf("%s: %d", path, code)
		}
	}
	for _, path := range []string{
		"/", "/api", "/apis", "/api/v1/nodes", "/openapi/v2", "/metrics", "/logs", "/debug/pprof", "/cacerts/", "/cacerts/x",
		"/v1-limpet", "/v1-limpet/", "/v1-limpet/tunnel", "/api/v1/namespaces/kube-system/configmaps/limpet-join",
		"/api/v1/namespaces/kube-public/configmaps/cluster-info",
	} {
		if code, _ := w.http(t, http.MethodGet, path, ""); code != http.StatusUnauthorized {
			t.Errorf("anonymous GET %s: %d, want 401", path, code)
		}
	}
	for _, c := range []struct{ method, path string }{{http.MethodPost, "/cacerts"}, {http.MethodDelete, "/cacerts"}, {http.MethodGet, "/v1-limpet/token-check"}} {
		if code, _ := w.http(t, c.method, c.path, ""); code != http.StatusForbidden {
			t.Errorf("anonymous %s %s: %d, want 403", c.method, c.path, code)
		}
	}
}

func (w *tokenWorld) settings(t *testing.T) {
	ctx := t.Context()
	maps := w.client.CoreV1().ConfigMaps(join.Namespace)
	m, err := maps.Get(ctx, join.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	settings, err := join.Parse([]byte(m.Data[join.Key]))
	if err != nil {
		t.Fatal(err)
	}
	if want := w.nodeIP(t, node1) + ":6443"; !slices.Equal(settings.Servers, []string{want}) {
		t.Errorf("servers %v, want %s", settings.Servers, want)
	}
	for name, spoil := range map[string]func() error{
		"changed": func() error {
			spoilt := m.DeepCopy()
			spoilt.ResourceVersion, spoilt.UID = "", "" // it may have been deleted before
			spoilt.Data = map[string]string{"config": "{}", "more": "x"}
			_, err := maps.Update(ctx, spoilt, metav1.UpdateOptions{})
			return err
		},
		"deleted": func() error { return maps.Delete(ctx, join.Name, metav1.DeleteOptions{}) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		within(t, "the settings to be put right after they were "+name, func(ctx context.Context) error {
			now, err := maps.Get(ctx, join.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(now.Data) != 1 || now.Data[join.Key] != m.Data[join.Key] {
				return fmt.Errorf("they are %v", now.Data)
			}
			return nil
		})
	}
}

func (w *tokenWorld) create(t *testing.T) {
	ctx := t.Context()
	made := w.made(t, w.limpet(t, 0, "create", "--description", "shop 17", "--ttl", "2h").stdout)
	if !made.Pinned() {
		t.Error("the token has no hash of the certificate")
	}
	if err := w.ask(ctx, t, made); err != nil {
		t.Errorf("the token cannot be used at once: %v", err)
	}
	for what, err := range map[string]error{
		"secrets": second(w.bearer(t, made).CoreV1().Secrets("kube-system").List(ctx, metav1.ListOptions{})),
		"nodes":   second(w.bearer(t, made).CoreV1().Nodes().List(ctx, metav1.ListOptions{})),
		"another ConfigMap": second(w.bearer(t, made).CoreV1().ConfigMaps("kube-system").
			Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("the bearer reads %s: %v", what, err)
		}
	}
	l := w.list(t)[made.ID()]
	if l.Role != "agent" || l.Description != "shop 17" || l.Own || l.Expired || l.Expires == nil || time.Until(*l.Expires) > 2*time.Hour {
		t.Errorf("listed as %+v", l)
	}
	command := w.limpet(t, 0, "create", "--print-join", "--ttl", "0", "--role", "server").stdout
	parts := regexp.MustCompile(`^limpet agent --server https://([^ ]+) --token (\S+)\n$`).FindStringSubmatch(command)
	if parts == nil || parts[1] != w.nodeIP(t, node1)+":6443" {
		t.Fatalf("--print-join prints %q", command)
	}
	ever := w.made(t, parts[2])
	if err := w.ask(ctx, t, ever); err != nil {
		t.Error(err)
	}
	if l := w.list(t)[ever.ID()]; l.Role != "server" || l.Expires != nil {
		t.Errorf("listed as %+v", l)
	}
}

func second[T any](_ T, err error) error { return err }

func (w *tokenWorld) expire(t *testing.T) {
	made := w.made(t, w.limpet(t, 0, "create", "--ttl", "5s").stdout)
	if state := w.verdict(t, made.Bootstrap()); state != "valid" {
		t.Errorf("at first it is %s", state)
	}
	within(t, "the token to expire", func(ctx context.Context) error {
		if err := w.ask(ctx, t, made); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("it is answered: %w", errors.Join(errStillIn, err))
		}
		return nil
	})
	if state := w.verdict(t, made.Bootstrap()); state != "expired" {
		t.Errorf("then it is %s", state)
	}
	if state := w.verdict(t, made.ID()+".0000000000000000"); state != "unknown" {
		t.Errorf("who knows only the id is told %s", state)
	}
	if l := w.list(t)[made.ID()]; !l.Expired {
		t.Errorf("listed as %+v", l)
	}
}

func (w *tokenWorld) delete(t *testing.T) {
	ctx := t.Context()
	one := w.made(t, w.limpet(t, 0, "create").stdout)
	two := w.made(t, w.limpet(t, 0, "create").stdout)
	r := w.limpet(t, 1, "delete", one.ID(), "nobody")
	if !strings.Contains(r.stderr, "nobody") || w.ask(ctx, t, one) != nil {
		t.Errorf("an unknown id: %s; the known one is answered %v", r.text(), w.ask(ctx, t, one))
	}
	if r := w.limpet(t, 1, "delete", "first0"); !strings.Contains(r.stderr, "limpet token rotate") {
		t.Errorf("the server's own token: %s", r.text())
	}
	w.limpet(t, 0, "delete", one.ID(), two.String())
	for _, gone := range []token.Token{one, two} {
		if err := w.ask(ctx, t, gone); !apierrors.IsUnauthorized(err) {
			t.Errorf("a deleted token is answered %v", err)
		}
		if state := w.verdict(t, gone.Bootstrap()); state != "unknown" {
			t.Errorf("a deleted token is %s", state)
		}
	}
}

func (w *tokenWorld) wrongInput(t *testing.T) {
	before := w.list(t)
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"create --ttl 1x", 2, "--ttl"},
		{"create --ttl -5m", 2, "--ttl"},
		{"create --role boss", 2, "agent, server"},
		{"create more", 2, "takes no arguments"},
		{"delete", 2, "needs ID"},
		{"delete not-an-id", 1, "nothing was deleted"},
		{"rotate --token hunter2", 2, "limpet token generate"},
		{"rotate --token first0.chosenbeforehand", 1, "nothing was changed"},
		{"rotate --token aaaaaa.0123456789abcdef --token-file /x", 2, "give one of them"},
		{"rotate --token L10" + strings.Repeat("0", 64) + "::aaaaaa.0123456789abcdef", 1, "another cluster"},
		{"rotate", 1, "limpet token generate"}, // its token is in a variable of the server's
		{"list --data-dir /nowhere", 1, "--data-dir"},
		{"lst", 2, "did you mean list"},
	} {
		r := w.limpet(t, c.code, strings.Fields(c.args)...)
		if !strings.Contains(r.stderr, c.says) || strings.Contains(r.text(), "hunter2") {
			t.Errorf("limpet token %s: %q has to say %q", c.args, r.text(), c.says)
		}
	}
	if after := w.list(t); len(after) != len(before) {
		t.Errorf("tokens before: %v, after: %v", before, after)
	}
}

// A start with a token that cannot be is refused before anything else is looked
// at, so that the running server does not matter.
func (w *tokenWorld) wrongServerToken(t *testing.T) {
	for _, c := range []struct {
		token string
		code  int
		says  string
	}{
		{"hunter2-hunter2", 2, "limpet token generate"},
		{"other0.0123456789abcdef", 1, "limpet token rotate"},
		{"L10" + strings.Repeat("0", 64) + "::first0.chosenbeforehand", 1, "another cluster"},
	} {
		r := w.in(t.Context(), node1, "env", "LIMPET_TOKEN="+c.token, "timeout", "20", "limpet", "server")
		if r.code != c.code || !strings.Contains(r.stderr, c.says) || strings.Contains(r.stderr, "hunter2") || strings.Contains(r.stderr, "0123456789") {
			t.Errorf("limpet server with token %s: exit status %d, %s; want %d and %q", c.token, r.code, r.text(), c.code, c.says)
		}
	}
	r := w.in(t.Context(), node1, "timeout", "20", "limpet", "server", "--data-dir", "/var/lib/limpet-new",
		"--token", "L10"+strings.Repeat("0", 64)+"::first0.chosenbeforehand")
	if r.code != 1 || !strings.Contains(r.stderr, "has none yet") {
		t.Errorf("a full token at the first start: exit status %d, %s", r.code, r.text())
	}
	if _, err := os.Stat(w.path(t, node1, "/var/lib/limpet-new")); !os.IsNotExist(err) {
		t.Errorf("a refused start made the data directory: %v", err)
	}
}

// The Secret and the file restore each other.
func (w *tokenWorld) heal(t *testing.T) {
	ctx := t.Context()
	own := w.known[0]
	if err := w.client.CoreV1().Secrets("kube-system").Delete(ctx, "bootstrap-token-"+own.ID(), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	within(t, "the Secret of the server's token", func(ctx context.Context) error { return w.ask(ctx, t, own) })

	w.must(ctx, t, "stop", node1)
	w.remove(t, node1, dataDir+"/server/token")
	if r := w.limpet(t, 1, "list"); !strings.Contains(r.stderr, "not running") {
		t.Errorf("with the server stopped: %s", r.text())
	}
	w.must(ctx, t, "start", node1)
	w.must(ctx, t, "wait", node1)
	w.ownToken(t, own)
}

func (w *tokenWorld) rotate(t *testing.T) {
	ctx := t.Context()
	own := w.known[0]
	agents := w.made(t, w.limpet(t, 0, "create").stdout)
	next := w.made(t, w.limpet(t, 0, "generate").stdout)
	w.drop(t, node1, "/etc/limpet/new-token", []byte(next.Bootstrap()+"\n"))
	w.limpet(t, 0, "rotate", "--token-file", "/etc/limpet/new-token")
	if err := w.ask(ctx, t, own); !apierrors.IsUnauthorized(err) {
		t.Errorf("the old token is answered %v", err)
	}
	if err := w.ask(ctx, t, agents); err != nil {
		t.Errorf("another token suffered: %v", err)
	}
	w.ownToken(t, next)
	lines := w.list(t)
	if _, there := lines[own.ID()]; there || !lines[next.ID()].Own {
		t.Errorf("listed: %v", lines)
	}

	// With the new one in the configuration, as it says, the next start is fine;
	// and what a server was not given, it may make itself.
	w.must(ctx, t, "stop", node1)
	w.must(ctx, t, "start", node1, "--token", next.Bootstrap())
	w.must(ctx, t, "wait", node1)
	w.ownToken(t, next)
}

func (w *tokenWorld) log(t *testing.T) {
	logs, err := filepath.Glob(filepath.Join(w.dir, node1, "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("no log: %v", err)
	}
	for _, file := range logs {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, known := range w.known {
			if strings.Contains(string(data), known.Secret()) {
				t.Errorf("%s holds the secret of token %s", file, known.ID())
			}
		}
	}
}
