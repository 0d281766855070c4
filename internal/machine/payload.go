package machine

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/payload"
)

// UnpackPayload puts the helper programs into the data directory and in front
// of the process's PATH.
func UnpackPayload(ctx context.Context, dataDir string, log *slog.Logger) (payload.Dir, error) {
	dir, err := payload.Unpack(ctx, dataDir)
	if err != nil {
		return dir, err
	}
	if dir.Damage != nil {
		log.Warn("the helper programs on disk were damaged and have been replaced", "component", "payload", "damage", dir.Damage)
	}
	if err := os.Setenv("PATH", searchPath(dir.Bin(), os.Getenv("PATH"))); err != nil {
		return dir, fmt.Errorf("set PATH: %w", err)
	}
	return dir, nil
}

// searchPath is the PATH of the process: the helpers come first. The usual
// directories come last, because a box may start its services on an empty PATH
// and the kubelet calls mount.
func searchPath(helpers, inherited string) string {
	path := helpers
	if inherited != "" {
		path += ":" + inherited
	}
	return path + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// PayloadKeeper looks, once all is up, for what the quick check at start cannot
// see: bits that the flash has flipped in the helper programs. And it removes
// those of older versions that no container needs any more.
func PayloadKeeper(dataDir string, log *slog.Logger) component.Component {
	log = log.With("component", "payload")
	return component.Func("payload", func(ctx context.Context, ready func()) error {
		ready()
		dir, err := payload.Repair(ctx, dataDir)
		if err != nil {
			log.Warn("the helper programs could not be checked", "error", err)
		} else if dir.Damage != nil {
			log.Warn("the helper programs on disk were damaged and have been replaced", "damage", dir.Damage)
		}
		removed, err := payload.Collect(ctx, dataDir)
		if err != nil {
			log.Warn("helper programs of older versions could not be removed", "error", err)
		}
		if len(removed) > 0 {
			log.Info("removed helper programs of older versions", "removed", removed)
		}
		return nil
	})
}
