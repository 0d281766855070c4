package join

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/limpetio/limpet/internal/noderecord"
	"github.com/limpetio/limpet/internal/token"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// ask joins, but not longer than a test may take.
func ask(t *testing.T, o Options) (*Grant, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return Request(ctx, o)
}

// wantCode checks the exit code, that the text says what to do, and that no
// secret is in it.
func wantCode(t *testing.T, err error, want Code, o Options, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != want || e.ExitCode() != int(want) {
		t.Fatalf("got %v, want code %d", err, want)
	}
	if !strings.Contains(e.Error(), text) {
		t.Errorf("%q does not say %q", e, text)
	}
	if tok, err := token.Parse(o.Token); err == nil && strings.Contains(e.Error(), tok.Secret()) {
		t.Errorf("the secret is in %q", e)
	}
	if _, err := os.Stat(o.Files.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the refusal left something on disk")
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	now := time.Now()
	denied := func(reason string) func(*cluster, *Options) {
		return func(c *cluster, _ *Options) {
			c.condition = &certificatesv1.CertificateSigningRequestCondition{
				Type: certificatesv1.CertificateDenied, Reason: reason, Message: "because of it",
			}
		}
	}
	for name, tt := range map[string]struct {
		change func(*cluster, *Options)
		code   Code
		text   string
	}{
		"malformed token": {func(_ *cluster, o *Options) { o.Token = "secret" }, BadToken, "limpet token"},
		"no token":        {func(_ *cluster, o *Options) { o.Token = "" }, BadToken, "empty"},
		"hash of another authority": {func(_ *cluster, o *Options) {
			o.Token = token.Generate().WithCA(token.HashCA(nil)).String()
		}, WrongCA, "another cluster"},
		"unknown token": {func(c *cluster, o *Options) {
			o.Token, c.verdict = swapSecret(c.t, o.Token), `{"state":"unknown"}`
		}, UnknownToken, "limpet token create"},
		"expired token": {func(c *cluster, _ *Options) {
			c.token401, c.verdict = true, `{"state":"expired","expired":"2026-11-25T10:00:00Z"}`
		}, ExpiredToken, "2026-11-25 10:00 UTC"},
		"verdict that is none": {func(c *cluster, _ *Options) { c.token401, c.verdict = true, "<html>" }, UnknownToken, ""},
		"another web server": {func(c *cluster, _ *Options) {
			c.cacerts = func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }
		}, NoServer, "no limpet server"},
		"a page instead of certificates": {func(c *cluster, _ *Options) {
			c.cacerts = func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>welcome</html>")) }
		}, NoServer, "no limpet server"},
		"more than a bundle": {func(c *cluster, _ *Options) {
			c.cacerts = func(w http.ResponseWriter) { _, _ = w.Write([]byte(strings.Repeat(c.settings.ServerCA, 200))) }
		}, NoServer, ""},
		"redirection": {func(c *cluster, _ *Options) {
			c.cacerts = func(w http.ResponseWriter) {
				w.Header().Set("Location", "https://192.0.2.1/")
				w.WriteHeader(http.StatusFound)
			}
		}, NoServer, ""},
		"plain HTTP there": {func(c *cluster, o *Options) {
			o.Server = plain(c.t, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		}, NoServer, "TLS"},
		"something else there": {func(c *cluster, o *Options) { o.Server = plain(c.t, "SSH-2.0-OpenSSH_9.2\r\n") }, NoServer, "TLS"},
		"http":                 {func(_ *cluster, o *Options) { o.Server = strings.Replace(o.Server, "https", "http", 1) }, PlainHTTP, "https://127"},
		"name is taken":        {denied(noderecord.ReasonNameTaken), NameTaken, "because of it"},
		"other denial":         {denied(noderecord.ReasonRefused), Refused, "because of it"},
		"server is older": {func(c *cluster, _ *Options) {
			c.settings.KubernetesVersion = "v1.36.9"
		}, Refused, "Update the server first"},
		"settings of a later format": {func(c *cluster, _ *Options) { c.settings.Version = 2 }, Refused, "same version"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t, now)
			o := c.options()
			tt.change(c, &o)
			_, err := ask(t, o)
			wantCode(t, err, tt.code, o, tt.text)
		})
	}
}

// A man in the middle can show the true authority, but not a certificate of it.
func TestCertificateOfAnotherAuthority(t *testing.T) {
	t.Parallel()
	honest, thief := start(t, time.Now()), start(t, time.Now())
	thief.settings.ServerCA = honest.settings.ServerCA
	o := thief.options()
	o.Token = honest.token.String()
	_, err := ask(t, o)
	wantCode(t, err, ForeignCert, o, "not issued by the cluster's authority")

	// Nor does it help to send its own authority along.
	thief.settings.ServerCA = honest.settings.ServerCA + read(t, thief.authority.Server.File())
	_, err = ask(t, o)
	wantCode(t, err, ForeignCert, o, "")
}

func TestCertificateForAnotherName(t *testing.T) {
	t.Parallel()
	o := start(t, time.Now(), "mast.example.com").options()
	_, err := ask(t, o)
	wantCode(t, err, NoServer, o, "--tls-san")
}

func TestClockThatMakesTheCertificateInvalid(t *testing.T) {
	t.Parallel()
	o := start(t, time.Now().AddDate(5, 0, 0)).options() // as on a box without a battery for its clock
	_, err := ask(t, o)
	wantCode(t, err, WrongClock, o, "this machine's clock says "+day(time.Now())[:10])
}

func TestStartingServerIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := start(t, time.Now())
	c.condition = &certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, Reason: "x"}
	answers := 0
	c.cacerts = func(w http.ResponseWriter) {
		if answers++; answers < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(c.settings.ServerCA))
	}
	o := c.options()
	var said []string
	o.Waiting = func(what string) { said = append(said, what) }
	_, err := ask(t, o)
	wantCode(t, err, Refused, o, "")
	if len(said) != 2 || !strings.Contains(said[0], c.URL) || !strings.Contains(said[0], "503") {
		t.Errorf("it said %q", said)
	}
}

func TestUnreachableServerIsWaitedForUntilTheEnd(t *testing.T) {
	t.Parallel()
	c := start(t, time.Now())
	o := c.options()
	c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	o.Waiting = func(string) { cancel() }
	if _, err := Request(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// The key is kept before the server learns of it, and goes only when the server
// has denied the request: after any other end the server may know it.
func TestIdentityKeyOfADeniedNode(t *testing.T) {
	t.Parallel()
	c := start(t, time.Now())
	c.condition = &certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, Reason: noderecord.ReasonNameTaken}
	o := c.options()
	var calls []string
	o.KeepIdentity = func() error {
		if c.requests > 0 {
			t.Error("the server learned of the key before it was kept")
		}
		calls = append(calls, "keep")
		return nil
	}
	o.DropIdentity = func() error { calls = append(calls, "drop"); return nil }
	_, err := ask(t, o)
	wantCode(t, err, NameTaken, o, "")
	c.condition.Type = certificatesv1.CertificateFailed
	c.requests = 0
	_, err = ask(t, o)
	wantCode(t, err, Refused, o, "")
	if got := strings.Join(calls, " "); got != "keep drop keep" {
		t.Errorf("calls were %q", got)
	}
}
