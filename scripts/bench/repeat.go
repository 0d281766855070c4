package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// operation is the i-th of a measurement, done by one of the clients.
type operation func(ctx context.Context, client, i int) error

// repeat does n operations with a number of clients that each begin the next
// one when they have finished the last. The first error ends it.
func repeat(ctx context.Context, clients, n int, op operation) (latencies, error) {
	l := latencies{each: make([]time.Duration, n)}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for client := range clients {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				begin := time.Now()
				if err := op(ctx, client, i); err != nil {
					return fmt.Errorf("operation %d of %d: %w", i+1, n, err)
				}
				l.each[i] = time.Since(begin)
			}
		})
	}
	err := group.Wait()
	l.wall = time.Since(start)
	return l, err
}
