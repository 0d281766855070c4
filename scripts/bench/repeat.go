package main

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// operation is the i-th of a measurement, done by one of the clients.
type operation func(ctx context.Context, client, i int) error

// repeat does n operations with a number of clients that each begin the next
// one when they have finished the last. The first error ends it.
func repeat(ctx context.Context, clients, n int, op operation) (latencies, error) {
	return repeatFor(ctx, clients, n, math.MaxInt64, op)
}

// repeatFor is repeat that begins no more operations when its time is over.
func repeatFor(ctx context.Context, clients, n int, limit time.Duration, op operation) (latencies, error) {
	l := latencies{each: make([]time.Duration, n)}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for client := range clients {
		group.Go(func() error {
			for {
				begin := time.Now()
				if begin.Sub(start) >= limit {
					return nil
				}
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := op(ctx, client, i); err != nil {
					return fmt.Errorf("operation %d of %d: %w", i+1, n, err)
				}
				l.each[i] = time.Since(begin)
			}
		})
	}
	err := group.Wait()
	l.wall = time.Since(start)
	l.each = l.each[:min(int(next.Load()), n)]
	return l, err
}
