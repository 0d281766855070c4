package containerd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limpetio/limpet/internal/restart"
)

// TestHalfStarted: what is left of a start that failed can only be ended with
// the process.
func TestHalfStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := Containerd{stuck: errHalfStarted}
		begin := time.Now()
		err := c.serve(t.Context(), func(error) {}, nil, "", Config{}, func() { t.Error("it is ready") })
		var needed *restart.Needed
		if !errors.As(err, &needed) || time.Since(begin) != stuckPause {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.serve(ctx, func(error) {}, nil, "", Config{}, func() {}); err != nil {
			t.Errorf("when limpet ends: %v", err)
		}
	})
}
