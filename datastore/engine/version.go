package engine

import (
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Version is one revision of one key. It is immutable, but for whether its value
// is in memory, which is a Cache's business.
type Version struct {
	Key string
	// ID is that of the record in the log.
	ID int64
	// Prev is the record that this one supersedes; 0 if there is none. It may
	// have been compacted away.
	Prev           int64
	CreateRevision int64
	// Version counts the changes since the key was created; 0 is a tombstone:
	// the key was deleted.
	Version int64
	Lease   int64
	// Size is the length of the value in bytes.
	Size int

	value atomic.Pointer[[]byte]
	// used: read since the Cache last looked; without a value in memory, wanted
	// by a scan.
	used       atomic.Bool
	next, prev *Version // of the Cache
}

// ModRevision is the revision in which this version came to be.
func (v *Version) ModRevision() int64 { return Revision(v.ID) }

// Tombstone reports whether this version says that the key is gone.
func (v *Version) Tombstone() bool { return v.Version == 0 }

// Value returns the value if it is in memory.
func (v *Version) Value() ([]byte, bool) {
	if v.Size == 0 {
		return nil, true
	}
	p := v.value.Load()
	if p == nil {
		return nil, false
	}
	if !v.used.Load() {
		v.used.Store(true)
	}
	return *p, true
}

// SetValue puts the value into memory: when a version is made, before anybody
// else has it.
func (v *Version) SetValue(value []byte) {
	v.Size = len(value)
	if len(value) > 0 {
		v.value.Store(&value)
	}
}

// KV is the version as etcd's API shows it.
func (v *Version) KV(value []byte) *mvccpb.KeyValue {
	if v.Tombstone() {
		return &mvccpb.KeyValue{Key: []byte(v.Key), ModRevision: v.ModRevision()}
	}
	return &mvccpb.KeyValue{
		Key: []byte(v.Key), Value: value, CreateRevision: v.CreateRevision,
		ModRevision: v.ModRevision(), Version: v.Version, Lease: v.Lease,
	}
}

// Change is what happened to one key.
type Change struct {
	// Cur is the new version, which may be a tombstone.
	Cur *Version
	// Prev is the version before; nil if the key did not exist.
	Prev *Version
}
