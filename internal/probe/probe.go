// Package probe waits for components that have no signal for being ready.
package probe

import (
	"context"
	"net/http"
	"time"
)

// Await asks url every so often until it answers 200, and returns nil then, or
// the context's error. It is for starts only: in short steps, and never again.
func Await(ctx context.Context, client *http.Client, url string, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok(ctx, client, url) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func ok(ctx context.Context, client *http.Client, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
