package datastore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// crashDir, in the environment, makes TestCrashChild the child of TestCrash.
const (
	crashDir  = "LIMPET_TEST_CRASH_DIR"
	crashSeed = "LIMPET_TEST_CRASH_SEED"
)

// line is what the child tells its parent, on file descriptor 3. A line that is
// there happened; lines are in the order of what happened.
type line struct {
	Kind     string   // opened, call, done, event, watch
	ID       int64    `json:",omitempty"` // of a call, or of a watcher
	Op       string   `json:",omitempty"` // of a call: put, delete, read, grant, revoke
	Keys     []string `json:",omitempty"`
	Value    string   `json:",omitempty"`
	Lease    int64    `json:",omitempty"`
	Expect   int64    `json:",omitempty"` // the revision that a call compares with, 0: none
	Revision int64    `json:",omitempty"`
	Mod      int64    `json:",omitempty"` // of the key that was read; 0: there is none
	OK       bool     `json:",omitempty"`
}

// child is a store under load.
type child struct {
	s    *Store
	seed uint64

	mu   sync.Mutex
	pipe *os.File
	last int64
}

func (c *child) tell(l line) error {
	b, err := json.Marshal(l)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.pipe.Write(append(b, '\n'))
	return err
}

// call tells of a call before it is made, and gives it a number.
func (c *child) call(l line) (line, error) {
	c.mu.Lock()
	c.last++
	l.Kind, l.ID = "call", c.last
	c.mu.Unlock()
	if l.Op == "put" {
		l.Value = fmt.Sprintf("%d/%d", c.seed, l.ID)
	}
	return l, c.tell(l)
}

func (c *child) done(l line, revision int64, ok bool) error {
	return c.tell(line{Kind: "done", ID: l.ID, Revision: revision, OK: ok})
}

// TestCrashChild runs in a process of its own, until its parent kills it.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("this is the child of TestCrash")
	}
	seed, err := strconv.ParseUint(os.Getenv(crashSeed), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	c := &child{seed: seed, pipe: os.NewFile(3, "pipe")}
	opts := Options{Path: dir + "/state.db", HistoryChanges: 64, CacheBytes: 16 << 10}
	opts.Log.WALSoftLimit = 128 << 10 // checkpoints happen
	if c.s, err = Open(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	if err := c.tell(line{Kind: "opened", Revision: c.s.State().Revision, OK: c.s.Opened().Clean}); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for w := range int64(3) {
		running.Go(func() { c.stop(t, c.watch(t.Context(), w)) })
	}
	for w := range uint64(6) {
		running.Go(func() {
			r := rand.New(rand.NewPCG(seed, w))
			for {
				if err := c.step(t.Context(), r, w); err != nil {
					c.stop(t, err)
					return
				}
			}
		})
	}
	running.Wait()
}

// stop fails if the end is not that of the parent.
func (c *child) stop(t *testing.T, err error) {
	if !errors.Is(err, os.ErrClosed) && t.Context().Err() == nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

func (c *child) watch(ctx context.Context, id int64) error {
	start := c.s.State().Revision + 2 - id // one in the future, one now, one in the past
	f := follow(c.s, everything(), max(start, c.s.State().Compacted))
	if err := c.tell(line{Kind: "watch", ID: id, Revision: max(start, c.s.State().Compacted)}); err != nil {
		return err
	}
	for {
		b, err := f.next(ctx)
		if err != nil {
			return err
		}
		for _, change := range b.Changes {
			values, err := c.s.Values(ctx, versionsOf(change))
			if err != nil {
				return err
			}
			err = c.tell(line{Kind: "event", ID: id, Keys: []string{change.Cur.Key}, Value: string(values[0]), Mod: change.Cur.ID, OK: !change.Cur.Tombstone()})
			if err != nil {
				return err
			}
		}
	}
}

func (c *child) step(ctx context.Context, r *rand.Rand, writer uint64) error {
	key := fmt.Sprintf("k%d", r.IntN(6))
	switch r.IntN(10) {
	case 0:
		return c.remove(ctx, key)
	case 1, 2:
		return c.put(ctx, line{Keys: []string{key}})
	case 3: // two keys, in one revision
		return c.put(ctx, line{Keys: []string{"pair/a", "pair/b"}})
	case 4:
		return c.lease(ctx, int64(1+writer), fmt.Sprintf("leased/%d", writer))
	}
	now, err := c.read(ctx, key)
	if err != nil || now == 0 {
		return err
	}
	return c.put(ctx, line{Keys: []string{key}, Expect: now})
}

func (c *child) read(ctx context.Context, key string) (mod int64, err error) {
	l, err := c.call(line{Op: "read", Keys: []string{key}})
	if err != nil {
		return 0, err
	}
	resp, err := c.s.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		return 0, err
	}
	d := line{Kind: "done", ID: l.ID, Revision: resp.Header.Revision}
	if len(resp.Kvs) > 0 {
		d.Mod, d.Value = resp.Kvs[0].ModRevision, string(resp.Kvs[0].Value)
	}
	return d.Mod, c.tell(d)
}

// put puts all keys of a line, with padding that makes a commit some pages long.
func (c *child) put(ctx context.Context, l line) error {
	l.Op = "put"
	l, err := c.call(l)
	if err != nil {
		return err
	}
	r := &pb.TxnRequest{}
	if l.Expect != 0 {
		r.Compare = append(r.Compare, modEquals(l.Keys[0], l.Expect))
	}
	for _, key := range l.Keys {
		r.Success = append(r.Success, putOp(key, []byte(padded(l.Value, key)), l.Lease))
	}
	resp, err := c.s.Txn(ctx, r)
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		return c.done(l, 0, false)
	}
	if err != nil {
		return err
	}
	return c.done(l, resp.Header.Revision, resp.Succeeded)
}

// padded makes a value that is long for some keys.
func padded(value, key string) string {
	pad := 10
	if key == "k1" || key == "pair/b" {
		pad = 6000
	}
	return fmt.Sprintf("%s %0*d", value, pad, 0)
}

func (c *child) remove(ctx context.Context, key string) error {
	l, err := c.call(line{Op: "delete", Keys: []string{key}})
	if err != nil {
		return err
	}
	resp, err := c.s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
	if err != nil {
		return err
	}
	return c.done(l, resp.Header.Revision, resp.Deleted > 0)
}

// lease grants or revokes a lease that only this writer has, with one key.
func (c *child) lease(ctx context.Context, id int64, key string) error {
	if _, ok := c.s.State().Lease(id); !ok {
		l, err := c.call(line{Op: "grant", Lease: id})
		if err != nil {
			return err
		}
		if _, err := c.s.LeaseGrant(ctx, id, 3600); err != nil {
			return err
		}
		if err := c.done(l, 0, true); err != nil {
			return err
		}
		return c.put(ctx, line{Keys: []string{key}, Lease: id})
	}
	l, err := c.call(line{Op: "revoke", Lease: id, Keys: []string{key}})
	if err != nil {
		return err
	}
	if err := c.s.LeaseRevoke(ctx, id); err != nil {
		return err
	}
	return c.done(l, 0, true)
}
