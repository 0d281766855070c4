package engine_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/engine/enginetest"
)

// FuzzEngine gives the same requests to the engine and to a model, in commits of
// several requests of which some fail, and compares every answer and everything
// that can be seen.
func FuzzEngine(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomBytes(seed, 600))
	}
	f.Fuzz(func(t *testing.T, data []byte) { run(t, data) })
}

// TestRandomRequests is what FuzzEngine does, with the same requests each time.
func TestRandomRequests(t *testing.T) {
	t.Parallel()
	for seed, end := uint64(100), time.Now().Add(time.Second); seed < 110 || seed < 3000 && time.Now().Before(end); seed++ {
		run(t, randomBytes(seed, 400+int(seed%7)*200))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

// world is an engine with its log on the one side, and a model on the other.
type world struct {
	testing.TB
	*enginetest.Source
	cache *engine.Cache
	log   map[int64]*engine.Version // what a log on the disk would hold
	disk  map[int64][]byte          // the values of the log
	state *engine.State
	model *enginetest.Model
	old   *engine.State // an earlier state, and how it looked
	seen  []proto.Message
}

func run(t testing.TB, data []byte) {
	w := &world{
		TB: t, Source: enginetest.NewSource(data), cache: engine.NewCache(400, 100),
		log: map[int64]*engine.Version{}, disk: map[int64][]byte{}, state: engine.New(), model: enginetest.NewModel(),
	}
	for !w.Done() && !t.Failed() {
		w.commit()
	}
	w.reload()
}

// Values is the Reader's: what is not in memory is on the disk.
func (w *world) Values(versions []*engine.Version) ([][]byte, error) {
	values := make([][]byte, len(versions))
	for i, v := range versions {
		value, ok := v.Value()
		if !ok {
			if value, ok = w.disk[v.ID]; !ok {
				return nil, fmt.Errorf("the value of %q, %d is neither in memory nor on the disk", v.Key, v.ID)
			}
			if w.OneIn(2) {
				w.cache.Admit(v, value)
			}
		}
		if len(value) != v.Size {
			return nil, fmt.Errorf("value of %q: %d bytes, size is %d", v.Key, len(value), v.Size)
		}
		values[i] = value
	}
	return values, nil
}

// Record is the Reader's.
func (w *world) Record(id int64) (*engine.Version, error) {
	r := w.log[id]
	if r == nil {
		return nil, nil
	}
	return onDisk(r), nil
}

// onDisk is a version as it is read back: without its value.
func onDisk(r *engine.Version) *engine.Version {
	return &engine.Version{
		Key: r.Key, ID: r.ID, Prev: r.Prev, CreateRevision: r.CreateRevision,
		Version: r.Version, Lease: r.Lease, Size: r.Size,
	}
}

// commit applies some requests to a Pending, and makes it the state or drops it.
func (w *world) commit() {
	pending, model := w.state.Begin(w), w.model.Clone()
	for range 1 + w.Intn(4) {
		w.request(pending, model)
	}
	if w.OneIn(4) {
		w.look(w.state, w.model, "after a commit that failed")
		return
	}
	w.changed(pending, model)
	for _, c := range pending.Changes() {
		w.log[c.Cur.ID] = onDisk(c.Cur)
		w.disk[c.Cur.ID], _ = c.Cur.Value()
		w.cache.Add(c.Cur)
		if c.Prev != nil && w.OneIn(2) {
			w.cache.Drop(c.Prev)
		}
	}
	w.state, w.model = pending.State(), model
	w.look(w.state, w.model, "after a commit")
	if w.OneIn(8) {
		w.sweep()
		w.look(w.state, w.model, "after a sweep")
	}
	if w.old != nil && w.old.Compacted == w.state.Compacted && w.OneIn(4) {
		if now := w.view(w.old); !slices.EqualFunc(now, w.seen, proto.Equal) {
			w.Fatalf("a state changed:\n%v\n%v", w.seen, now)
		}
	}
	if w.OneIn(4) {
		w.old, w.seen = w.state, w.view(w.state)
	}
}

// request gives one request to both sides and compares the answers.
func (w *world) request(p *engine.Pending, m *enginetest.Model) {
	g := enginetest.Generator{Source: w.Source, Revision: m.Revision}
	var got, want proto.Message
	var err, wantErr error
	r := g.Next()
	switch r.Kind {
	case enginetest.Put:
		got, err = p.Put(r.Put)
		want, wantErr = m.Put(r.Put)
	case enginetest.Range:
		got, err = w.state.Range(r.Range, w)
		want, wantErr = w.model.Range(r.Range)
	case enginetest.DeleteRange:
		got, err = p.DeleteRange(r.DeleteRange)
		want, wantErr = m.DeleteRange(r.DeleteRange)
	case enginetest.Txn:
		if !engine.Writes(r.Txn) {
			got, err = w.state.ReadTxn(r.Txn, w)
			want, wantErr = w.model.Clone().Txn(r.Txn)
			w.same(r, got, want, err, wantErr)
		}
		got, err = p.Txn(r.Txn)
		want, wantErr = m.Txn(r.Txn)
	case enginetest.Grant:
		err, wantErr = p.Grant(engine.Lease{ID: r.Number, TTL: 60}), m.Grant(r.Number)
	case enginetest.Revoke:
		err, wantErr = p.Revoke(r.Number), m.Revoke(r.Number)
	case enginetest.Compact:
		err, wantErr = p.Compact(r.Number), m.Compact(r.Number)
	}
	w.same(r, got, want, err, wantErr)
	if p.State().Revision != m.Revision {
		w.Fatalf("%v: revision %d, want %d", r, p.State().Revision, m.Revision)
	}
}

func (w *world) same(r enginetest.Request, got, want proto.Message, err, wantErr error) {
	if err != nil || wantErr != nil {
		if !errors.Is(err, wantErr) {
			w.Fatalf("%v: error %v, want %v", r, err, wantErr)
		}
		return
	}
	if want != nil && !proto.Equal(got, want) {
		w.Fatalf("%v:\ngot  %v\nwant %v", r, got, want)
	}
}

// changed compares the changes of a Pending with the model's events.
func (w *world) changed(p *engine.Pending, m *enginetest.Model) {
	want := m.Events[len(w.model.Events):]
	if len(p.Changes()) != len(want) {
		w.Fatalf("%d changes, want %d", len(p.Changes()), len(want))
	}
	for i, c := range p.Changes() {
		e := want[i]
		if c.Cur.ID != engine.ID(e.KV.ModRevision, e.Sub) {
			w.Fatalf("change %d: ID %x, want %d.%d", i, c.Cur.ID, e.KV.ModRevision, e.Sub)
		}
		value, _ := c.Cur.Value()
		if !proto.Equal(c.Cur.KV(value), e.KV) {
			w.Fatalf("change %d: %v, want %v", i, c.Cur.KV(value), e.KV)
		}
		if (c.Prev == nil) != (e.Prev == nil) {
			w.Fatalf("change %d of %q: prev %v, want %v", i, c.Cur.Key, c.Prev, e.Prev)
		}
		if c.Prev != nil {
			values, err := w.Values([]*engine.Version{c.Prev})
			if err != nil || !proto.Equal(c.Prev.KV(values[0]), e.Prev) || c.Cur.Prev != c.Prev.ID {
				w.Fatalf("change %d of %q: prev %v %v (%x), want %v", i, c.Cur.Key, c.Prev, err, c.Cur.Prev, e.Prev)
			}
		}
	}
}

func everything(revision int64) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision}
}

// look compares all that can be seen of a state with the model.
func (w *world) look(s *engine.State, m *enginetest.Model, when string) {
	if s.Revision != m.Revision || s.Compacted != m.Compacted || s.Len() != len(m.At(m.Revision)) {
		w.Fatalf("%s: revision %d, compacted %d, %d keys; want %d, %d, %d", when,
			s.Revision, s.Compacted, s.Len(), m.Revision, m.Compacted, len(m.At(m.Revision)))
	}
	for revision := max(1, s.Compacted, s.Revision-8); revision <= s.Revision; revision++ {
		got, err := s.Range(everything(revision), w)
		want, _ := m.Range(everything(revision))
		if err != nil || !proto.Equal(got, want) {
			w.Fatalf("%s: everything at %d: %v\ngot  %v\nwant %v", when, revision, err, got, want)
		}
	}
	if len(s.Leases()) != len(m.Leases) {
		w.Fatalf("%s: leases %v, want %v", when, s.Leases(), m.Leases)
	}
	for _, l := range s.Leases() {
		if !m.Leases[l.ID] || !slices.Equal(s.Attached(l.ID), m.Attached(l.ID)) {
			w.Fatalf("%s: lease %d of %v has %v, want %v", when, l.ID, m.Leases, s.Attached(l.ID), m.Attached(l.ID))
		}
	}
}

// view is how a state looks.
func (w *world) view(s *engine.State) (all []proto.Message) {
	for revision := max(1, s.Compacted, s.Revision-4); revision <= s.Revision; revision++ {
		resp, err := s.Range(everything(revision), w)
		if err != nil {
			w.Fatal(err)
		}
		all = append(all, resp)
	}
	return all
}

// sweep removes from the log what nobody may ask for any more: what a record up
// to the compacted revision has superseded, and the tombstones among those.
func (w *world) sweep() {
	for _, id := range slices.Sorted(maps.Keys(w.log)) {
		r := w.log[id]
		if r == nil || engine.Revision(id) > w.state.Compacted {
			continue
		}
		delete(w.log, r.Prev)
		delete(w.disk, r.Prev)
		if r.Tombstone() {
			delete(w.log, id)
			delete(w.disk, id)
		}
	}
	w.old = nil // it may refer to what has gone
}

// reload makes a state of what is in the log: it must be the same.
func (w *world) reload() {
	s := engine.New()
	s.Compacted = w.state.Compacted
	records := make([]*engine.Version, 0, len(w.log))
	for _, r := range w.log {
		records = append(records, onDisk(r))
	}
	slices.SortFunc(records, func(a, b *engine.Version) int { return cmp.Compare(a.ID, b.ID) })
	for _, r := range records {
		if w.OneIn(2) && len(w.disk[r.ID]) > 0 {
			r.SetValue(w.disk[r.ID])
		}
		prev := s.Load(r)
		w.cache.Add(r)
		if prev != nil && prev.ID != r.Prev {
			w.Fatalf("load: %q %x came after %x, want %x", r.Key, r.ID, prev.ID, r.Prev)
		}
	}
	for _, l := range w.state.Leases() {
		s.LoadLease(l)
	}
	s.Revision = w.state.Revision // the last change may have been a tombstone that is swept
	w.look(s, w.model, "after loading")
	w.state = s
	w.commit()
}
