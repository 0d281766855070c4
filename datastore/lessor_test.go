package datastore

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limpetio/limpet/datastore/engine"
)

func grant(t testing.TB, s *Store, id, ttl int64) engine.Lease {
	t.Helper()
	lease, err := s.LeaseGrant(t.Context(), id, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func putLeased(t testing.TB, s *Store, key string, lease int64) {
	t.Helper()
	if _, err := s.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Lease: lease}); err != nil {
		t.Fatal(err)
	}
}

// A lease that nobody renews takes its keys along, in one revision; one that is
// renewed does not.
func TestLeaseExpires(t *testing.T) {
	t.Parallel()
	s := open(t)
	short := grant(t, s, 0, 1)
	if short.ID <= 0 || short.TTL != minLeaseTTL {
		t.Errorf("granted %+v", short)
	}
	renewed := grant(t, s, 9, 2)
	start := time.Now()
	putLeased(t, s, "a", short.ID)
	putLeased(t, s, "b", short.ID)
	putLeased(t, s, "moved", short.ID)
	putLeased(t, s, "moved", 0)
	putLeased(t, s, "renewed", renewed.ID)
	f := follow(s, everything(), 0)
	defer f.Close()
	time.AfterFunc(time.Second, func() {
		if ttl, err := s.LeaseKeepAlive(renewed.ID); err != nil || ttl != 2 {
			t.Errorf("keep alive: %d, %v", ttl, err)
		}
	})
	ctx := within(t, 30*time.Second)
	b, err := f.next(ctx)
	if err != nil || len(b.Changes) != 2 || !b.Changes[0].Cur.Tombstone() || b.Changes[0].Cur.Key != "a" ||
		b.Changes[1].Cur.Key != "b" || b.Changes[0].Cur.ModRevision() != b.Changes[1].Cur.ModRevision() {
		t.Fatalf("the first expiry: %+v, %v", b, err)
	}
	if d := time.Since(start); d < 1900*time.Millisecond {
		t.Errorf("expired after %v", d)
	}
	if _, err := s.LeaseKeepAlive(short.ID); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Errorf("keep alive of an expired lease: %v", err)
	}
	if get(t, s, "moved") == nil || get(t, s, "renewed") == nil {
		t.Error("a key is gone that no expired lease holds")
	}
	b, err = f.next(ctx)
	if err != nil || len(b.Changes) != 1 || b.Changes[0].Cur.Key != "renewed" {
		t.Fatalf("the second expiry: %+v, %v", b, err)
	}
	if d := time.Since(start); d < 2900*time.Millisecond {
		t.Errorf("the renewed lease expired after %v", d)
	}
	s.lessor.mu.Lock()
	defer s.lessor.mu.Unlock()
	if len(s.lessor.deadlines) != 0 {
		t.Errorf("deadlines of leases that do not exist: %v", s.lessor.deadlines)
	}
}

func TestLeaseRevoke(t *testing.T) {
	t.Parallel()
	s := open(t)
	grant(t, s, 3, 100)
	if _, err := s.LeaseGrant(t.Context(), 3, 100); !errors.Is(err, rpctypes.ErrGRPCLeaseExist) {
		t.Errorf("granted twice: %v", err)
	}
	if _, err := s.LeaseGrant(t.Context(), 4, maxLeaseTTL+1); !errors.Is(err, rpctypes.ErrGRPCLeaseTTLTooLarge) {
		t.Errorf("granted for too long: %v", err)
	}
	grant(t, s, 4, maxLeaseTTL) // must not overflow
	putLeased(t, s, "a", 3)
	if lease, left, err := s.LeaseTimeToLive(3); err != nil || lease.TTL != 100 || left < 95 || left > 100 {
		t.Errorf("%+v has %d s left, %v", lease, left, err)
	}
	if _, err := s.Put(t.Context(), &pb.PutRequest{Key: []byte("b"), Lease: 77}); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Errorf("put with a lease that does not exist: %v", err)
	}
	for _, want := range []error{nil, rpctypes.ErrGRPCLeaseNotFound} {
		if err := s.LeaseRevoke(t.Context(), 3); !errors.Is(err, want) {
			t.Errorf("revoke: %v, want %v", err, want)
		}
	}
	if _, _, err := s.LeaseTimeToLive(3); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) || get(t, s, "a") != nil {
		t.Errorf("after revoking: %v, key %v", err, get(t, s, "a"))
	}
}

// After a restart a lease has its whole time again, and it still ends.
func TestLeaseAfterRestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	grant(t, s, 3, 2)
	grant(t, s, 4, 1000)
	putLeased(t, s, "a", 3)
	putLeased(t, s, "b", 4)
	closeStore(t, s)
	s = openAt(t, path)
	defer closeStore(t, s)
	f := follow(s, everything(), 0)
	defer f.Close()
	b, err := f.next(within(t, 30*time.Second))
	if err != nil || len(b.Changes) != 1 || b.Changes[0].Cur.Key != "a" {
		t.Errorf("expired: %+v, %v", b, err)
	}
	if _, left, err := s.LeaseTimeToLive(4); err != nil || left < 900 {
		t.Errorf("the other lease has %d s left, %v", left, err)
	}
}

// The wall clock may jump when the time is set: leases count by the monotonic
// clock, and what counts is in no other place.
func TestLeasesDoNotGoByTheDate(t *testing.T) {
	t.Parallel()
	s := open(t)
	grant(t, s, 3, 100)
	s.lessor.mu.Lock()
	defer s.lessor.mu.Unlock()
	for _, at := range []time.Time{s.lessor.deadlines[3], s.lessor.next} {
		if at.Round(0) == at { //nolint:staticcheck // not the instant: Round strips the monotonic reading
			t.Errorf("%v is a date only", at)
		}
	}
}

// A lease that was renewed at the moment it was revoked does not leave a deadline
// that is tried for ever.
func TestLeaseRenewedWhileRevoked(t *testing.T) {
	t.Parallel()
	s := open(t)
	s.lessor.set(5, 0) // there is no such lease
	grant(t, s, 6, 2)
	putLeased(t, s, "a", 6)
	f := follow(s, everything(), 0)
	defer f.Close()
	if _, err := f.next(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	s.lessor.mu.Lock()
	defer s.lessor.mu.Unlock()
	if at, ok := s.lessor.deadlines[5]; ok {
		t.Errorf("tried again at %v", at)
	}
}
