// Package join makes this machine a node of a cluster: it finds the server,
// makes sure that it is the right one, reads the cluster's settings and obtains
// the node's certificate. docs/joining.md describes it for users.
//
// Nothing is written before the server has agreed. A machine that has joined
// needs neither the token nor the server to start again.
package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	joincfg "github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/token"
)

const (
	userAgent      = "limpet-agent"
	requestTimeout = 10 * time.Second
	// grace is how long a refusal may last that a starting server gives, too.
	grace = 30 * time.Second
	// The pauses between attempts.
	firstPause, lastPause = 250 * time.Millisecond, 15 * time.Second
)

// Options say who joins what.
type Options struct {
	// Server is https://HOST[:PORT].
	Server string
	// Token is in its full or short form; it is looked at only if the machine
	// has to join.
	Token    string
	NodeName string
	Files    Files
	// Identity is the machine's key. KeepIdentity, if it is new, keeps it before
	// the server learns of it, so that a power cut cannot leave the node's name
	// to a key that nobody has; DropIdentity takes that back when the server
	// denies the request. Both are nil if the key is kept already.
	Identity                   nodeid.Key
	KeepIdentity, DropIdentity func() error
	// KubernetesVersion is the kubelet's, as v1.37.2.
	KubernetesVersion string
	Logger            *slog.Logger
	// Waiting is told, in words, what is waited for; it may be nil.
	Waiting func(what string)
	// Now is time.Now unless a test replaces it.
	Now func() time.Time
}

// Load returns the settings with which this machine has joined before. The
// error is an ErrNotJoined that says what is missing. A token with the hash of
// another authority than the settings' tells that the machine is to join another
// cluster; its secret does not matter.
func Load(o Options) (joincfg.Config, error) {
	c, err := o.Files.load(o.NodeName, o.now())
	if err != nil {
		return c, err
	}
	if t, err := token.Parse(o.Token); err == nil && t.Pinned() && t.Find(parseBundle([]byte(c.ServerCA))) == nil {
		return c, fmt.Errorf("%w: the token is of another cluster", ErrNotJoined)
	}
	return c, nil
}

// Grant is what a server has agreed to; Save keeps it.
type Grant struct {
	Settings joincfg.Config
	pair     keyPair
}

// Request asks the server for a place in the cluster. A server that does not
// answer is waited for until ctx is done; refusals are *Error. It leaves the
// machine's identity key behind, and nothing at all when it fails.
func Request(ctx context.Context, o Options) (*Grant, error) {
	base, _, err := ParseServer(o.Server)
	if err != nil {
		return nil, err
	}
	t, err := parseToken(o.Token)
	if err != nil {
		return nil, err
	}
	j := &joiner{base: base, token: t, version: o.KubernetesVersion, log: o.Logger, now: o.now, waiting: o.Waiting}
	if j.waiting == nil {
		j.waiting = func(string) {}
	}
	return j.join(ctx, o)
}

// Save makes the machine a joined one. What belonged to an earlier membership,
// maybe of another cluster, goes.
func (g *Grant) Save(files Files) error {
	if err := files.forget(g.Settings); err != nil {
		return err
	}
	if _, err := files.SaveSettings(g.Settings); err != nil {
		return err
	}
	// The certificate last: with it the machine has joined.
	_, err := (&CertStore{Path: files.Client(Kubelet)}).Update(g.pair.cert, g.pair.key)
	return err
}

func (o Options) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// TokenAdvice says where a token comes from.
const TokenAdvice = "On the server, `limpet token create --print-join` prints one"

func parseToken(text string) (token.Token, error) {
	t, err := token.Parse(text)
	if err != nil {
		return t, &Error{Code: BadToken, Err: err, What: "the token cannot be used", Do: TokenAdvice}
	}
	return t, nil
}

// joiner is one attempt to join, which may take long.
type joiner struct {
	base    string // https://HOST:PORT
	token   token.Token
	version string
	log     *slog.Logger
	now     func() time.Time
	waiting func(string)
}

func (j *joiner) join(ctx context.Context, o Options) (*Grant, error) {
	var (
		l        *link
		settings joincfg.Config
	)
	err := j.retry(ctx, func() error {
		bundle, err := j.fetchCA(ctx)
		if err != nil {
			return err
		}
		root, err := j.trust(bundle)
		if err != nil {
			return err
		}
		if l, err = j.connect(root); err != nil {
			return err
		}
		settings, err = j.fetchSettings(ctx, l)
		return err
	})
	if err != nil {
		return nil, err
	}
	r, err := newRequest(o.NodeName, o.Identity)
	if err != nil {
		return nil, err
	}
	if o.KeepIdentity != nil {
		if err := o.KeepIdentity(); err != nil {
			return nil, err
		}
	}
	var pair keyPair
	err = j.retry(ctx, func() (err error) {
		pair, err = j.obtain(ctx, l, r)
		return err
	})
	if err != nil {
		if refused := (*Error)(nil); errors.As(err, &refused) && refused.denied && o.DropIdentity != nil {
			err = errors.Join(err, o.DropIdentity())
		}
		return nil, err
	}
	j.log.Info("the server has accepted this node", "server", j.base, "node", o.NodeName, "kubernetes", settings.KubernetesVersion)
	return &Grant{Settings: settings, pair: pair}, nil
}

// retry calls step until it succeeds or fails for good.
func (j *joiner) retry(ctx context.Context, step func() error) error {
	var (
		stage string
		since time.Time
		pause time.Duration
	)
	for {
		err := step()
		if err == nil || ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
		p := (*pending)(nil)
		if !errors.As(err, &p) {
			return err
		}
		if p.stage != stage {
			stage, since, pause = p.stage, time.Now(), firstPause
		}
		if p.final != nil && time.Since(since) > grace {
			return p.final
		}
		j.log.Info("waiting for the server", "server", j.base, "reason", p.err, "next_attempt_in", pause.Round(time.Millisecond))
		j.waiting(fmt.Sprintf("waiting for the server at %s: %v", j.base, p.err))
		select {
		case <-time.After(jitter(pause)):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, lastPause)
		if p.final != nil {
			pause = min(pause, 2*time.Second)
		}
	}
}

// jitter spreads d by ±20 %: after a power cut a whole site waits for one server.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
