package datastore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limpetio/limpet/datastore/engine"
)

const (
	// minLeaseTTL and maxLeaseTTL, in seconds, are etcd's.
	minLeaseTTL = 2
	maxLeaseTTL = 9_000_000_000
	// expiryRetry is how long an expired lease waits when it could not be
	// revoked: the disk is full, for example.
	expiryRetry = 5 * time.Second
)

// lessor revokes leases when their time is over. Time is the machine's monotonic
// clock, which a wrong date does not move; after a restart each lease has its
// whole time again, since nobody could renew it meanwhile.
type lessor struct {
	store *Store

	mu        sync.Mutex
	deadlines map[int64]time.Time
	// next is when the timer fires: no later than the first deadline. Renewing a
	// lease leaves the timer alone.
	next  time.Time
	timer *time.Timer
	due   chan struct{}
}

func newLessor(s *Store) *lessor {
	l := &lessor{store: s, deadlines: map[int64]time.Time{}, due: make(chan struct{}, 1)}
	l.timer = time.AfterFunc(time.Hour, l.fire)
	l.timer.Stop()
	for _, lease := range s.State().Leases() {
		l.set(lease.ID, lease.TTL)
	}
	return l
}

func (l *lessor) fire() {
	select {
	case l.due <- struct{}{}:
	default:
	}
}

func (l *lessor) set(id, ttl int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now().Add(time.Duration(min(ttl, int64(time.Duration(1<<62)/time.Second))) * time.Second)
	l.deadlines[id] = at
	l.arm(at)
}

// arm makes sure that the timer fires at a time or before.
func (l *lessor) arm(at time.Time) {
	if l.next.IsZero() || at.Before(l.next) {
		l.next = at
		l.timer.Reset(time.Until(at))
	}
}

// changed follows what has been committed.
func (l *lessor) changed(changes []engine.LeaseChange) {
	for _, c := range changes {
		if !c.Revoked {
			l.set(c.ID, c.TTL)
			continue
		}
		l.mu.Lock()
		delete(l.deadlines, c.ID)
		l.mu.Unlock()
	}
}

// run revokes what expires, until the store is closed.
func (l *lessor) run() {
	for {
		select {
		case <-l.store.closing.Done():
			l.timer.Stop()
			return
		case <-l.due:
		}
		for _, id := range l.expired(time.Now()) {
			if err := l.store.LeaseRevoke(l.store.closing, id); err != nil && l.store.closing.Err() == nil {
				l.retry(id, err)
			}
		}
	}
}

// expired returns what is over, and sets the timer for what comes next.
func (l *lessor) expired(now time.Time) []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []int64
	l.next = time.Time{}
	for id, at := range l.deadlines {
		if at.After(now) {
			l.arm(at)
		} else {
			ids = append(ids, id)
		}
	}
	return ids
}

func (l *lessor) retry(id int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.deadlines[id]; !ok {
		return // somebody else has revoked it
	}
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		delete(l.deadlines, id) // renewed while it was being revoked
		return
	}
	l.store.logger.Warn("an expired lease could not be revoked; trying again", "lease", id, "in", expiryRetry, "error", err)
	at := time.Now().Add(expiryRetry)
	l.deadlines[id] = at
	l.arm(at)
}

// remaining is the time that a lease has left.
func (l *lessor) remaining(id int64) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.deadlines[id]
	return time.Until(at), ok
}

// LeaseGrant makes a lease. An ID of 0 asks for one; the TTL is in seconds and
// may be raised to the least that is possible.
func (s *Store) LeaseGrant(ctx context.Context, id, ttl int64) (engine.Lease, error) {
	if ttl > maxLeaseTTL {
		return engine.Lease{}, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	lease := engine.Lease{ID: id, TTL: max(ttl, minLeaseTTL)}
	if lease.ID == 0 {
		lease.ID = newLeaseID()
	}
	err := s.write(ctx, 0, func(p *engine.Pending) error { return p.Grant(lease) })
	return lease, err
}

// newLeaseID is a positive number that nobody has had.
func newLeaseID() int64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails: see crypto/rand
		if id := int64(binary.BigEndian.Uint64(b[:]) >> 1); id != 0 {
			return id
		}
	}
}

// LeaseRevoke ends a lease and deletes the keys that it holds.
func (s *Store) LeaseRevoke(ctx context.Context, id int64) error {
	return s.write(ctx, 0, func(p *engine.Pending) error { return p.Revoke(id) })
}

// LeaseKeepAlive gives a lease its whole time again; nothing is written. The TTL
// is in seconds.
func (s *Store) LeaseKeepAlive(id int64) (ttl int64, err error) {
	lease, ok := s.State().Lease(id)
	left, alive := s.lessor.remaining(id)
	if !ok || !alive || left <= 0 {
		return 0, rpctypes.ErrGRPCLeaseNotFound
	}
	s.lessor.set(id, lease.TTL)
	return lease.TTL, nil
}

// LeaseTimeToLive returns a lease and the seconds that it has left.
func (s *Store) LeaseTimeToLive(id int64) (lease engine.Lease, left int64, err error) {
	lease, ok := s.State().Lease(id)
	if !ok {
		return engine.Lease{}, 0, rpctypes.ErrGRPCLeaseNotFound
	}
	remaining, _ := s.lessor.remaining(id)
	return lease, max(0, int64(remaining.Round(time.Second)/time.Second)), nil
}
