package created

import (
	"context"
	"log/slog"
	"time"

	"github.com/limpetio/limpet/internal/component"
)

// recordName is what the component and its messages are known by.
const recordName = "created-record"

// settleAfter is when the kubelet, once it is up, has made its kernel settings.
const settleAfter = 30 * time.Second

// Settler is the component that completes the record once limpet is up: with
// the kernel settings as limpet and its parts have made them.
func Settler(dataDir string, log *slog.Logger) component.Component {
	return component.Func(recordName, func(ctx context.Context, ready func()) error {
		ready()
		select {
		case <-time.After(settleAfter):
		case <-ctx.Done(): // as far as they have come
		}
		if err := Settle(dataDir); err != nil {
			log.Warn("an uninstall will not know all kernel settings that were changed", "component", recordName, "error", err)
		}
		return nil
	})
}
