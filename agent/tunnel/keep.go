package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"
)

var errLost = errors.New("the connection was lost, or the server has closed it")

// keep connects to one server again and again, until ctx is done.
func (t *Tunnel) keep(ctx context.Context, server string) {
	defer t.forget(server)
	k := keeper{Tunnel: t, server: server, log: t.opts.Logger.With("server", server), pause: t.opts.Backoff}
	t.set(server, errors.New("connecting"))
	for {
		news := t.awaitNews()
		err := k.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if same(err) {
			t.set(server, nil)
			k.pause = t.opts.Backoff
			select {
			case <-news:
			case <-ctx.Done():
				return
			}
		} else {
			k.failed(err)
		}
		if !k.wait(ctx) {
			return
		}
	}
}

// noAnswer is in the place of an HTTP status.
const noAnswer = -1

func answerOf(err error) int {
	if status := (*StatusError)(nil); errors.As(err, &status) {
		return status.Code
	}
	return noAnswer
}

// same tells that the server is reached at another address already.
func same(err error) bool { return answerOf(err) == http.StatusConflict }

// keeper is what keep remembers from attempt to attempt.
type keeper struct {
	*Tunnel
	server string
	log    *slog.Logger
	pause  time.Duration
	told   int // the answer (or noAnswer) that was logged: an outage is not logged every 15 s
}

// once connects and serves until the tunnel ends; the error says why it is not there.
func (k *keeper) once(ctx context.Context) error {
	conn, id, err := k.open(ctx, k.server)
	if err != nil {
		return err
	}
	k.began(k.server, id)
	k.set(k.server, nil)
	k.log.Info("the server can reach this node through the tunnel")
	k.told = 0
	start := time.Now()
	k.serve(ctx, conn)
	if time.Since(start) > k.opts.BackoffMax {
		k.pause = k.opts.Backoff // it was a good one
	}
	k.end(k.server)
	return errLost
}

func (k *keeper) failed(err error) {
	k.set(k.server, err)
	if answer := answerOf(err); k.told != answer {
		k.told = answer
		k.log.Warn("no tunnel: the server can reach this node only directly; trying again", "reason", err)
	}
}

// wait pauses before the next attempt, or until there is news.
func (k *keeper) wait(ctx context.Context) bool {
	news := k.awaitNews()
	longest := k.opts.BackoffMax
	if len(k.connected()) > 0 {
		longest *= 8
	}
	timer := time.NewTimer(k.pause - rand.N(k.pause/2+1))
	defer timer.Stop()
	k.pause = min(2*k.pause, longest)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-news:
		k.pause = k.opts.Backoff
	}
	return true
}
