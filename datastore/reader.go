package datastore

import (
	"context"
	"fmt"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limpetio/limpet/datastore/engine"
)

// errSwept is for a value whose record was compacted away while it was wanted.
var errSwept = fmt.Errorf("read a value: %w", rpctypes.ErrGRPCCompacted)

// reader fetches from the log what a State only refers to.
type reader struct {
	ctx context.Context
	*Store
}

// Values returns the values of versions: from memory, or all the others in one go.
func (r reader) Values(versions []*engine.Version) ([][]byte, error) {
	values := make([][]byte, len(versions))
	var missing []int
	for i, v := range versions {
		value, ok := v.Value()
		if !ok {
			missing = append(missing, i)
		}
		values[i] = value
	}
	if missing == nil {
		return values, nil
	}
	ids := make([]int64, len(missing))
	for i, at := range missing {
		ids[i] = versions[at].ID
	}
	records, err := r.log.Records(r.ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read %d values: %w", len(ids), err)
	}
	r.metrics.valuesRead.Add(float64(len(ids)))
	for i, at := range missing {
		if records[i].ID == 0 {
			return nil, errSwept
		}
		values[at] = records[i].Value
		if len(versions) == 1 {
			r.cache.Admit(versions[at], values[at])
		} else {
			r.cache.Scanned(versions[at], values[at])
		}
	}
	return values, nil
}

// Record returns a version that is not current any more; nil if it was compacted
// away.
func (r reader) Record(id int64) (*engine.Version, error) {
	record, ok, err := r.log.Record(r.ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read an older version: %w", err)
	}
	if !ok {
		return nil, nil
	}
	return r.version(record), nil
}

// pages remembers the states that lists have begun with. A list that goes on
// page by page does so at the revision of its first page, which costs nothing
// extra as long as that state is here.
type pages struct {
	mu     sync.Mutex
	states []*engine.State
}

// keptStates is how many lists can be under way before one of them has to read
// history.
const keptStates = 8

func (p *pages) answer(current *engine.State, r *pb.RangeRequest, reader engine.Reader) (*pb.RangeResponse, error) {
	state := current
	if r.Revision > 0 && r.Revision < current.Revision && r.Revision >= current.Compacted {
		if kept := p.at(r.Revision); kept != nil {
			state = kept
		}
	}
	resp, err := state.Range(r, reader)
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = current.Revision
	if resp.More && state == current {
		p.keep(state)
	}
	return resp, nil
}

func (p *pages) at(revision int64) *engine.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.states {
		if s.Revision == revision {
			return s
		}
	}
	return nil
}

func (p *pages) keep(state *engine.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.states, state) {
		return
	}
	if len(p.states) == keptStates {
		p.states = slices.Delete(p.states, 0, 1)
	}
	p.states = append(p.states, state)
}

// forget drops what compaction has made unreadable.
func (p *pages) forget(compacted int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states = slices.DeleteFunc(p.states, func(s *engine.State) bool { return s.Revision < compacted })
}
