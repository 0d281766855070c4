package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"

	"github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/token"
)

var errStillIn = errors.New("the bearer is not refused")

// tokenWorld is a server and the tokens that a test has seen.
type tokenWorld struct {
	*cluster
	known []token.Token // whose secrets must not be anywhere
}

func (w *tokenWorld) seen(tokens ...token.Token) { w.known = append(w.known, tokens...) }

// within tries for half a minute until there is no error.
func within(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	eventually(ctx, t, what, func() error { return try(ctx) })
}

// limpet runs `limpet token`, which must end with this code.
func (w *tokenWorld) limpet(t *testing.T, code int, args ...string) result {
	t.Helper()
	r := w.in(t.Context(), node1, append([]string{"limpet", "token"}, args...)...)
	if r.code != code {
		t.Fatalf("limpet token %s: exit status %d, want %d: %s", strings.Join(args, " "), r.code, code, r.text())
	}
	return r
}

// made parses a token that was printed.
func (w *tokenWorld) made(t *testing.T, text string) token.Token {
	t.Helper()
	made, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	w.seen(made)
	return made
}

// ask reads the settings for joining as a bearer of the token does.
func (w *tokenWorld) ask(ctx context.Context, t *testing.T, bearer token.Token) error {
	t.Helper()
	_, err := w.bearer(t, bearer).CoreV1().ConfigMaps(join.Namespace).Get(ctx, join.Name, metav1.GetOptions{})
	return err
}

func (w *tokenWorld) bearer(t *testing.T, bearer token.Token) kubernetes.Interface {
	t.Helper()
	cfg := rest.AnonymousClientConfig(w.config)
	cfg.BearerToken = bearer.Bootstrap()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// http asks without any credentials.
func (w *tokenWorld) http(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(w.config))
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, w.config.Host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// ownToken waits until the file holds the token, in full form and for root only,
// and a bearer is let in.
func (w *tokenWorld) ownToken(t *testing.T, want token.Token) {
	t.Helper()
	file := w.path(t, node1, dataDir+"/server/token")
	bundle, err := cert.CertsFromFile(w.path(t, node1, dataDir+"/server/tls/server-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	full := want.WithCA(token.HashCA(bundle[0].Raw)).String() + "\n"
	within(t, "the file of the server's token", func(ctx context.Context) error {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if string(data) != full {
			return fmt.Errorf("it holds %q, want %q", data, full)
		}
		return w.ask(ctx, t, want)
	})
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the token's file is %v", info.Mode())
	}
}

type tokenLine struct {
	ID, Role, Description string
	Expired, Own          bool
	Expires               *time.Time
}

func (w *tokenWorld) list(t *testing.T) map[string]tokenLine {
	t.Helper()
	out := w.limpet(t, 0, "list", "-o", "json").stdout
	var lines []tokenLine
	if err := json.Unmarshal([]byte(out), &lines); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out += w.limpet(t, 0, "list").stdout
	byID := map[string]tokenLine{}
	for _, l := range lines {
		byID[l.ID] = l
	}
	for _, known := range w.known {
		if strings.Contains(out, known.Secret()) {
			t.Errorf("limpet token list shows the secret of %s", known.ID())
		}
	}
	return byID
}

func (w *tokenWorld) verdict(t *testing.T, bearer string) string {
	t.Helper()
	code, answer := w.http(t, http.MethodPost, "/v1-limpet/token-check", bearer)
	if code != http.StatusOK {
		t.Fatalf("token-check: %d %s", code, answer)
	}
	var v struct{ State string }
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		t.Fatal(err)
	}
	return v.State
}
