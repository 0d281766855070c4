package datastore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/internal/testenv"
)

// When the disk is full nothing that was refused is visible, to nobody and
// never; reads go on; and writes do when there is space.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 4<<20)
	path := filepath.Join(dir, "state.db")
	s := openAt(t, path, smallHistory)
	defer closeStore(t, s)
	f := follow(s, everything(), 2)
	defer f.Close()
	put(t, s, "kept", "1")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}

	acknowledged := fill(t, s)
	before := s.State()
	if got := get(t, s, "kept"); got == nil || string(got.Value) != "1" {
		t.Errorf("reading: %v", got)
	}
	// Several in one commit, also those that would have changed nothing.
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, err := s.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{
				putOp("kept", []byte("2"), 0), putOp(fmt.Sprintf("big/%d", i), make([]byte, 600<<10), 0),
			}})
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("with a full disk: %v", err)
			}
		})
	}
	wg.Wait()
	if s.State() != before || string(get(t, s, "kept").Value) != "1" {
		t.Errorf("something of a failed commit is visible, at revision %d after %d", s.State().Revision, before.Revision)
	}
	same := func(s *Store, when string) {
		t.Helper()
		resp := list(t, s, 0)
		if len(resp.Kvs) != acknowledged+1 {
			t.Errorf("%s: %d keys, %d acknowledged", when, len(resp.Kvs), acknowledged+1)
		}
	}
	same(s, "full")
	crashed := filepath.Join(t.TempDir(), "copy.db")
	copyDatabase(t, path, crashed)
	c := openAt(t, crashed)
	same(c, "after a crash while full")
	closeStore(t, c)

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	end := put(t, s, "kept", "3")
	if end != before.Revision+1 {
		t.Errorf("the next revision is %d, after %d", end, before.Revision)
	}
	same(s, "after that")
	changes, err := f.until(within(t, 30*time.Second), at(end))
	if err == nil {
		err = sameAsLog(t.Context(), f, changes)
	}
	if err != nil || len(changes) != acknowledged+2 {
		t.Errorf("a watcher saw %d changes, want %d; %v", len(changes), acknowledged+2, err)
	}
}

// fill writes until the disk is full, and returns how often it was answered.
func fill(t *testing.T, s *Store) (acknowledged int) {
	t.Helper()
	failed := 0
	for i := 0; failed < 3; i++ {
		size := 100 << 10
		if failed > 0 {
			size = 30 << 10 // the rest
		}
		_, err := s.Put(t.Context(), putReq(fmt.Sprintf("fill/%03d", i), strings.Repeat("x", size)))
		switch {
		case err == nil:
			acknowledged++
		case status.Code(err) != codes.ResourceExhausted:
			t.Fatalf("put: %v", err)
		default:
			failed++
		}
		if i > 1000 {
			t.Fatal("the disk does not become full")
		}
	}
	return acknowledged
}
