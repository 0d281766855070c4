package upgrades

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/release"
	"github.com/limpetio/limpet/internal/upgrade"
)

// Limpet is the installed limpet. It implements Machine.
type Limpet struct {
	DataDir string
	// PublicKey is the key that this binary trusts; never one that a server names.
	PublicKey string
	// Server is the URL of the API server as this node reaches it, without a slash
	// at its end.
	Server string
	Logger *slog.Logger
}

// Start implements Machine.
func (l Limpet) Start(ctx context.Context, r nodeupgrade.Request, client *http.Client, progress func(string)) error {
	o := upgrade.Options{
		PublicKey: l.PublicKey, DataDir: l.DataDir, Logger: l.Logger,
		WantVersion: r.Version, Timeout: time.Duration(r.Timeout), RequestedBy: requestedBy(r),
		Download: func(done, total int64) { progress(amount(done, total)) },
	}
	switch {
	case r.FromServer:
		o.Source, o.Client = l.Server+nodeupgrade.ServerPath+release.ArchiveFile(runtime.GOARCH), client
	case r.URL != "":
		o.Source = r.URL
	default:
		o.Source = r.Version
	}
	_, err := upgrade.Start(ctx, o)
	return err
}

// amount says how much of a download has come.
func amount(done, total int64) string {
	if total > 0 {
		return fmt.Sprintf("downloads the release: %d of %d MiB", done>>20, total>>20)
	}
	return fmt.Sprintf("downloads the release: %d MiB", done>>20)
}

// Load implements Machine.
func (l Limpet) Load() (*upgrade.Journal, error) {
	j, err := upgrade.Load(l.DataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &j, nil
}

// Await implements Machine.
func (l Limpet) Await(ctx context.Context, id string, changed func()) error {
	_, err := upgrade.Await(ctx, l.DataDir, id, func(upgrade.Journal) { changed() })
	return err
}
