package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limpetio/limpet/datastore/engine"
)

// Source is what is exported: a *datastore.Store.
type Source interface {
	State() *engine.State
	Values(context.Context, []*engine.Version) ([][]byte, error)
}

const (
	// batchKeys and batchBytes bound what of an export is in memory.
	batchKeys  = 500
	batchBytes = 4 << 20
	// attempts: a value can be compacted away before it is read, if it was
	// overwritten after the export began and somebody compacts right then. The
	// apiserver compacts what is older than 5 minutes, so once is rare.
	attempts = 3
)

// exportTo makes a file of a source's present state with write.
func exportTo(ctx context.Context, kind, path string, o Options, write func(context.Context, string) (Report, error)) (Report, error) {
	o = o.withDefaults()
	start := time.Now()
	report, err := func() (Report, error) {
		p, err := beside(path, o.Replace, false)
		if err != nil {
			return Report{}, err
		}
		defer p.discard()
		report, err := write(ctx, p.file())
		for n := 1; errors.Is(err, rpctypes.ErrGRPCCompacted) && n < attempts; n++ {
			o.Logger.Info("what is being exported was compacted: beginning anew", "error", err)
			if err = p.restart(); err == nil {
				report, err = write(ctx, p.file())
			}
		}
		if err == nil {
			report.Kept, err = p.commit()
		}
		return report, err
	}()
	if err != nil {
		return Report{}, fmt.Errorf("export to %s %s: %w", kind, path, explain(err, path))
	}
	report.Duration = time.Since(start)
	report.log(o.Logger, "exported the datastore", kind, path)
	return report, nil
}

// export walks over a state.
type export struct {
	source   Source
	state    *engine.State
	versions []*engine.Version // by revision
	opts     Options
	report   Report
}

func newExport(source Source, o Options) *export {
	e := &export{source: source, state: source.State(), opts: o.withDefaults()}
	e.versions = make([]*engine.Version, 0, e.state.Len())
	e.state.Each(func(v *engine.Version) bool {
		e.versions = append(e.versions, v)
		return true
	})
	slices.SortFunc(e.versions, func(a, b *engine.Version) int { return int(min(max(a.ID-b.ID, -1), 1)) })
	e.report.Leases = int64(len(e.state.Leases()))
	e.report.SourceRevision, e.report.Revision = e.state.Revision, e.state.Revision
	return e
}

// batches calls fn with all versions and their values, some at a time.
func (e *export) batches(ctx context.Context, fn func([]*engine.Version, [][]byte) error) error {
	for rest := e.versions; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && n < batchKeys && (n == 0 || size+rest[n].Size <= batchBytes) {
			size += rest[n].Size
			n++
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		values, err := e.source.Values(ctx, rest[:n])
		if err != nil {
			return err
		}
		if err := fn(rest[:n], values); err != nil {
			return err
		}
		for _, v := range rest[:n] {
			e.report.Keys++
			e.report.Bytes += int64(len(v.Key) + v.Size)
		}
		rest = rest[n:]
		e.opts.Progress(e.report.Keys, int64(len(e.versions)))
	}
	return nil
}
