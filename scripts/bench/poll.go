package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// poll begins an attempt every probePause, without waiting for the ones before,
// and returns the time at which the first of them succeeded. An attempt that
// hangs, as they do while a server starts, must not make the result late.
func poll(ctx context.Context, what string, atOnce int, attempt func(context.Context) error) (time.Time, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	succeeded := make(chan time.Time, atOnce)
	failed := make(chan error, atOnce)
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	running, last := 0, error(nil)
	for {
		select {
		case at := <-succeeded:
			return at, nil
		case last = <-failed:
			running--
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), last))
		case <-tick.C:
			if running == atOnce {
				continue
			}
			running++
			go func() {
				if err := attempt(ctx); err != nil {
					failed <- err
					return
				}
				succeeded <- time.Now()
			}()
		}
	}
}
