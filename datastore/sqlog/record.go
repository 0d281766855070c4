package sqlog

import (
	"errors"
	"fmt"
	"math"

	"github.com/limpetio/limpet/datastore/engine"
)

// MaxSub and MaxRevision are the largest values that fit into an id.
const (
	MaxSub      = engine.MaxChanges
	MaxRevision = math.MaxInt64 >> engine.SubBits
)

// ID is the id of change number sub at revision rev.
func ID(rev int64, sub int) int64 { return engine.ID(rev, sub) }

// Revision is the revision that the row id belongs to.
func Revision(id int64) int64 { return engine.Revision(id) }

// Record is one change of one key: a row of the log.
type Record struct {
	ID             int64
	Prev           int64 // the row of the same key that this one supersedes; 0 if there is none
	Key            string
	CreateRevision int64
	Version        int64 // 0 is a tombstone: the key was deleted
	Lease          int64
	Value          []byte
	Size           int // length of the value, also when Value was not loaded; ignored by Commit
}

// Tombstone reports whether the record deletes its key.
func (r *Record) Tombstone() bool { return r.Version == 0 }

// LeaseChange grants (or changes) a lease, or revokes it.
type LeaseChange struct {
	ID, TTL int64
	Revoked bool
}

// Batch is what one Commit stores.
type Batch struct {
	Records   []Record // in ascending order of their ids
	Leases    []LeaseChange
	Compacted int64 // the new compact revision; 0 leaves it as it is
}

// check refuses what would break the log's order. It is the caller's mistake,
// and found before anything is written.
func (b *Batch) check(last, revision, compacted int64) error {
	for i := range b.Records {
		r := &b.Records[i]
		switch {
		case r.ID <= last:
			return fmt.Errorf("record %d (revision %d) of key %q does not come after record %d", r.ID, Revision(r.ID), r.Key, last)
		case r.Prev < 0 || r.Prev >= r.ID:
			return fmt.Errorf("record %d of key %q supersedes record %d, which is not before it", r.ID, r.Key, r.Prev)
		case r.Version < 0:
			return fmt.Errorf("record %d of key %q has version %d", r.ID, r.Key, r.Version)
		case r.Version == 0 && len(r.Value) > 0:
			return fmt.Errorf("record %d of key %q is a tombstone with a value", r.ID, r.Key)
		case r.Key == "":
			return fmt.Errorf("record %d has no key", r.ID)
		}
		last = r.ID
	}
	if b.Compacted == 0 {
		return nil
	}
	if now := max(revision, Revision(last)); b.Compacted > now {
		return fmt.Errorf("compact revision %d is in the future: the revision is %d", b.Compacted, now)
	}
	if b.Compacted < compacted {
		return fmt.Errorf("compact revision %d is behind the present one, %d", b.Compacted, compacted)
	}
	return nil
}

func (b *Batch) empty() bool {
	return len(b.Records) == 0 && len(b.Leases) == 0 && b.Compacted == 0
}

var errClosed = errors.New("the log is closed")
