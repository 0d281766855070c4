package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/atomicfile"
	joinapi "github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/token/tokensecret"
)

// TokensName is the name of the component Tokens.
const TokensName = "join-tokens"

// usableWithin is how long the first bearer may take to be let in; what keeps it
// out for longer is an argument of the user's, and no reason not to run.
const usableWithin = 15 * time.Second

// TokensOptions configure Tokens.
type TokensOptions struct {
	// Client is called when the component starts: a configuration that may read
	// and write Secrets in kube-system.
	Client func() *rest.Config
	// File holds the server's own token, in full form, mode 0600. Its directory exists.
	File string
	// CABundle is what CACertsPath serves, in PEM; Hash is that of its root.
	CABundle []byte
	Hash     token.Hash
	// Chosen is the token that the configuration names; zero: none.
	Chosen token.Token
	Logger *slog.Logger
}

// Tokens is a component: it keeps the server's own token, in the cluster and in
// its file, and removes expired ones. It is ready when a bearer can join.
type Tokens struct {
	opts TokensOptions
	// secrets is nil before the component runs.
	secrets atomic.Pointer[watched]
	usable  atomic.Bool
	// enforced is set when the chosen token is in force: from then on it may be rotated.
	enforced bool
}

// NewTokens returns the component; see TokensOptions.
func NewTokens(opts TokensOptions) *Tokens { return &Tokens{opts: opts} }

// Handlers are the paths for the API server's mux, anonymous both.
func (t *Tokens) Handlers() map[string]http.Handler {
	return map[string]http.Handler{
		CACertsPath: caCerts(t.opts.CABundle, t.usable.Load),
		CheckPath:   tokenCheck(t.judge),
	}
}

func (t *Tokens) judge(bearer token.Token, now time.Time) Verdict {
	w := t.secrets.Load()
	if w == nil {
		return Verdict{State: Unknown}
	}
	return judge(all[*corev1.Secret](w), bearer, now)
}

// Name is TokensName.
func (t *Tokens) Name() string { return TokensName }

// Run blocks until ctx is done.
func (t *Tokens) Run(ctx context.Context, ready func()) error {
	clients, err := kubernetes.NewForConfig(t.opts.Client())
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	w, err := watch(ctx, clients.CoreV1().RESTClient(), "secrets", tokensecret.Namespace, tokensecret.FieldSelector, &corev1.Secret{})
	if err != nil {
		return stopped(ctx, err)
	}
	t.secrets.Store(w)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		d := decide(situation{
			secrets: all[*corev1.Secret](w), chosen: t.chosen(), configured: t.opts.Chosen.ID() != "", file: t.read(), fresh: token.Generate(), now: time.Now(),
		})
		err := t.execute(ctx, clients, d)
		if err != nil && !overtaken(err) {
			return stopped(ctx, err)
		}
		if err == nil && !t.usable.Load() {
			if err := t.awaitUsable(ctx, d.own); err != nil {
				return stopped(ctx, err)
			}
			t.usable.Store(true)
			ready()
		}
		timer.Stop()
		if !d.next.IsZero() {
			timer.Reset(time.Until(d.next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		case <-timer.C:
		}
	}
}

func (t *Tokens) chosen() token.Token {
	if t.enforced {
		return token.Token{}
	}
	return t.opts.Chosen
}

// execute carries a decision out: the Secret first, so that the file never names
// a token that is not yet valid.
func (t *Tokens) execute(ctx context.Context, clients kubernetes.Interface, d decision) error {
	secrets := clients.CoreV1().Secrets(tokensecret.Namespace)
	var err error
	switch {
	case d.create != nil:
		_, err = secrets.Create(ctx, d.create, metav1.CreateOptions{})
	case d.update != nil:
		_, err = secrets.Update(ctx, d.update, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("keep the server's own token %s: %w", d.own.ID(), err)
	}
	if d.create != nil || d.update != nil {
		t.opts.Logger.Info("put the server's own token in force", "id", d.own.ID())
	}
	changed, err := atomicfile.WriteIfChanged(t.opts.File, []byte(d.own.WithCA(t.opts.Hash).String()+"\n"), 0o600)
	if err != nil {
		return fmt.Errorf("keep the server's own token: %w", err)
	}
	if changed {
		t.opts.Logger.Info("wrote the server's own token", "id", d.own.ID(), "file", t.opts.File)
	}
	t.enforced = true
	for _, s := range d.remove {
		err := secrets.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("remove token %s: %w", s.Name, err)
		}
		t.opts.Logger.Info("removed a token that expired or was rotated", "secret", s.Name)
	}
	return nil
}

// read is the token of the file; zero if there is none that can be read, which
// is then written again.
func (t *Tokens) read() token.Token {
	found, err := token.ReadFile(t.opts.File)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.opts.Logger.Warn("the file of the server's own token cannot be used and is written again", "error", err)
	}
	return found
}

// awaitUsable returns when a machine can join: when a bearer of the token can
// read the settings, for which the API server's authenticator has to have seen
// the Secret and its authorizer the role, and anybody can ask for the
// certificate. It waits in short steps, at the start only.
func (t *Tokens) awaitUsable(ctx context.Context, own token.Token) error {
	cfg := rest.AnonymousClientConfig(t.opts.Client())
	cfg.BearerToken, cfg.QPS = own.Bootstrap(), -1
	bearer, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client of the token: %w", err)
	}
	anybody, err := rest.HTTPClientFor(rest.AnonymousClientConfig(t.opts.Client()))
	if err != nil {
		return fmt.Errorf("anonymous client: %w", err)
	}
	defer anybody.CloseIdleConnections()
	deadline := time.NewTimer(usableWithin)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := errors.Join(readsSettings(ctx, bearer), seesCACerts(ctx, anybody, cfg.Host))
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.opts.Logger.Warn("machines cannot join; is there a kube-apiserver-arg that switches bootstrap tokens off, or an authentication-config of your own that does not let anonymous requests to "+CACertsPath+" pass?", "error", err)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func readsSettings(ctx context.Context, bearer kubernetes.Interface) error {
	_, err := bearer.CoreV1().ConfigMaps(joinapi.Namespace).Get(ctx, joinapi.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("with the server's own token: %w", err)
	}
	return nil
}

// seesCACerts wants any answer of our own handler; it says 503 until this is done.
func seesCACerts(ctx context.Context, anybody *http.Client, server string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimSuffix(server, "/")+CACertsPath, nil)
	if err != nil {
		return err
	}
	resp, err := anybody.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return fmt.Errorf("anonymous request to %s: %s", CACertsPath, resp.Status)
	}
	return nil
}
