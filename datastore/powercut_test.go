package datastore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// TestPowerCut makes files as a power cut leaves them: all that was synced, and
// of what was written after that any sectors, and any length. What had been
// acknowledged by then must be there, and the rest not by halves.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			p := &powerCut{T: t, dir: t.TempDir(), rand: rand.New(rand.NewPCG(seed, 5))}
			// The test says when there is a checkpoint.
			p.s = openAt(t, filepath.Join(p.dir, "state.db"), func(o *Options) { o.Log.WALSoftLimit, o.Log.WALHardLimit = 1<<30, 1<<30 })
			defer closeStore(t, p.s)
			for range 25 {
				p.round()
			}
			t.Logf("%d cuts; of %d writes that were not synced %d are there", p.cuts, p.unsynced, p.survived)
		})
	}
}

type powerCut struct {
	*testing.T
	dir  string
	rand *rand.Rand
	s    *Store
	// written is the revision of each write, in their order.
	written []int64

	cuts, unsynced, survived int
}

// files are the database and its write-ahead log at a moment when nothing is
// being written.
type files struct{ db, wal []byte }

func (p *powerCut) files() files {
	p.Helper()
	to := filepath.Join(p.dir, "copy")
	copyDatabase(p, filepath.Join(p.dir, "state.db"), to)
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			p.Fatal(err)
		}
		return b
	}
	return files{read(to), read(to + "-wal")}
}

// write is one transaction: two keys, of which the second is a few pages long.
func (p *powerCut) write() {
	p.Helper()
	n := len(p.written)
	value := fmt.Appendf(nil, "%d ", n)
	resp, err := p.s.Txn(p.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
		putOp(fmt.Sprintf("a/%d", n%5), value, 0),
		putOp(fmt.Sprintf("b/%d", n), append(value, bytes.Repeat([]byte{byte('a' + n%26)}, p.rand.IntN(9000))...), 0),
	}})
	if err != nil {
		p.Fatal(err)
	}
	p.written = append(p.written, resp.Header.Revision)
}

func (p *powerCut) round() {
	for range 1 + p.rand.IntN(4) {
		p.write()
	}
	if p.rand.IntN(3) == 0 { // the next write begins the write-ahead log anew
		before := p.files()
		if err := p.s.log.Checkpoint(p.Context(), false); err != nil {
			p.Fatal(err)
		}
		after := p.files()
		for range 2 { // in the middle of the checkpoint
			p.cut(files{p.mix(before.db, after.db, 0), before.wal}, len(p.written))
		}
	}
	synced, then := len(p.written), p.files()
	for range 1 + p.rand.IntN(3) {
		p.write()
	}
	now := p.files()
	if !bytes.Equal(then.db, now.db) {
		p.Fatal("the database was written to without a checkpoint")
	}
	for range 3 {
		// SQLite syncs the header before anything that follows a new one.
		p.cut(files{now.db, p.mix(then.wal, now.wal, 32)}, synced)
	}
}

// mix is a file of which some sectors have been written and others not, after
// the first bytes, which have.
func (p *powerCut) mix(old, now []byte, written int) []byte {
	const sector = 512
	size := len(old)
	if more := len(now) - len(old); more > 0 {
		size += p.rand.IntN(more + 1)
	}
	out := make([]byte, size)
	copy(out, old)
	likely := 1 + p.rand.IntN(20) // of 20
	for at := 0; at < size; at += sector {
		if at < len(now) && p.rand.IntN(20) < likely {
			copy(out[at:min(at+sector, size)], now[at:])
		}
	}
	copy(out, now[:min(written, len(now), size)])
	return out
}

// cut opens files and compares them with what was written: the first synced
// writes are there, and after them as many as came in order.
func (p *powerCut) cut(f files, synced int) {
	p.Helper()
	p.cuts++
	dir, err := os.MkdirTemp(p.dir, "cut")
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "state.db")
	for name, content := range map[string][]byte{path: f.db, path + "-wal": f.wal} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			p.Fatal(err)
		}
	}
	records, _ := readAll(p, path)
	if len(records)%2 != 0 || len(records)/2 < synced || len(records)/2 > len(p.written) {
		p.Fatalf("%d records, of %d writes that were synced and %d that were not", len(records), synced, len(p.written)-synced)
	}
	for i, r := range records {
		n := i / 2
		key := fmt.Sprintf("a/%d", n%5)
		if i%2 == 1 {
			key = fmt.Sprintf("b/%d", n)
		}
		if r.Key != key || r.ID != sqlog.ID(p.written[n], i%2) || !bytes.HasPrefix(r.Value, fmt.Appendf(nil, "%d ", n)) {
			p.Fatalf("record %d is %x of %q, want %d.%d of %q", i, r.ID, r.Key, p.written[n], i%2, key)
		}
		if rest := bytes.TrimPrefix(r.Value, fmt.Appendf(nil, "%d ", n)); len(bytes.Trim(rest, string(rune('a'+n%26)))) > 0 {
			p.Fatalf("the value of %q is damaged", r.Key)
		}
	}
	p.unsynced += len(p.written) - synced
	p.survived += len(records)/2 - synced
}
