package etcdapi

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/limpetio/limpet/datastore"
)

func TestLease(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	lease, err := f.Grant(soon(t), 600)
	if err != nil || lease.ID == 0 || lease.TTL != 600 {
		t.Fatalf("%v, %v", lease, err)
	}
	f.put(t, "a", "1", clientv3.WithLease(lease.ID))
	f.put(t, "b", "1", clientv3.WithLease(lease.ID))
	f.put(t, "b", "2") // no longer

	left, err := f.TimeToLive(soon(t), lease.ID, clientv3.WithAttachedKeys())
	if err != nil || left.GrantedTTL != 600 || left.TTL < 500 || len(left.Keys) != 1 || string(left.Keys[0]) != "a" {
		t.Errorf("time to live: %v, %v", left, err)
	}
	renewed, err := f.KeepAliveOnce(soon(t), lease.ID)
	if err != nil || renewed.TTL != 600 || renewed.MemberId == 0 {
		t.Errorf("keep alive: %v, %v", renewed, err)
	}
	list, err := f.Leases(soon(t))
	if err != nil || !slices.Equal(list.Leases, []clientv3.LeaseStatus{{ID: lease.ID}}) {
		t.Errorf("leases: %v, %v", list, err)
	}
	revoked, err := f.Revoke(soon(t), lease.ID)
	if err != nil || revoked.Header.Revision != 5 {
		t.Errorf("revoke: %v, %v", revoked, err)
	}
	got, err := f.Get(soon(t), "a", clientv3.WithFromKey())
	if err != nil || keysOf(got.Kvs) != "b" {
		t.Errorf("left are %v, %v", got, err)
	}

	if _, err := f.KeepAliveOnce(soon(t), lease.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("keep alive of none: %v", err)
	}
	if left, err := f.TimeToLive(soon(t), lease.ID); err != nil || left.TTL != -1 {
		t.Errorf("time to live of none: %v, %v", left, err)
	}
	if _, err := f.Revoke(soon(t), lease.ID); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		t.Errorf("revoke none: %v", err)
	}
	if _, err := f.Grant(soon(t), 1<<40); !errors.Is(err, rpctypes.ErrLeaseTTLTooLarge) {
		t.Errorf("for ever: %v", err)
	}
}

// Of two leases of the same time, one is kept alive.
func TestLeaseExpires(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	grant := func(key string) clientv3.LeaseID {
		lease, err := f.Grant(soon(t), 2)
		if err != nil {
			t.Fatal(err)
		}
		f.put(t, key, "1", clientv3.WithLease(lease.ID))
		return lease.ID
	}
	events := f.Watch(soon(t), "", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	<-events
	alive, err := f.KeepAlive(soon(t), grant("kept"))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	lost := grant("lost")
	resp := <-events
	if len(resp.Events) != 1 || string(resp.Events[0].Kv.Key) != "lost" {
		t.Fatalf("got %v", resp)
	}
	if took := time.Since(start); took < 1900*time.Millisecond {
		t.Errorf("expired after %v", took)
	}
	if left, err := f.TimeToLive(soon(t), lost); err != nil || left.TTL != -1 {
		t.Errorf("%v, %v", left, err)
	}
	if r, ok := <-alive; !ok || r.TTL != 2 {
		t.Errorf("the other lease: %v", r)
	}
	if got, err := f.Get(soon(t), "kept"); err != nil || got.Count != 1 {
		t.Errorf("the other key: %v, %v", got, err)
	}
}

func TestMutexAndElection(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	session := func() *concurrency.Session {
		s, err := concurrency.NewSession(f.dial(t), concurrency.WithTTL(60))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	one, two := session(), session()

	first, second := concurrency.NewMutex(one, "/lock"), concurrency.NewMutex(two, "/lock")
	if err := first.Lock(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := second.TryLock(soon(t)); !errors.Is(err, concurrency.ErrLocked) {
		t.Errorf("the lock was had twice: %v", err)
	}
	locked := make(chan error, 1)
	ctx := soon(t)
	go func() { locked <- second.Lock(ctx) }()
	if err := first.Unlock(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Fatal(err)
	}

	leader, follower := concurrency.NewElection(one, "/leader"), concurrency.NewElection(two, "/leader")
	if err := leader.Campaign(soon(t), "one"); err != nil {
		t.Fatal(err)
	}
	go func() { locked <- follower.Campaign(ctx, "two") }()
	observed := follower.Observe(ctx)
	if resp := <-observed; string(resp.Kvs[0].Value) != "one" {
		t.Errorf("leader is %v", resp)
	}
	if err := one.Close(); err != nil { // its lease is revoked
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	for resp := range observed {
		if string(resp.Kvs[0].Value) == "two" {
			return
		}
	}
	t.Error(context.Cause(ctx))
}
