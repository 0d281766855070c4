package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// An etcd snapshot is etcd's database, a bbolt file with these buckets (see
// storage/schema of etcd's server), and usually its SHA-256 at the end.
//
// The bucket key holds all changes by revision: a key of 17 bytes is put, one
// with a "t" behind is a tombstone, and the value is a KeyValue.
const (
	bucketKey   = "key"
	bucketLease = "lease"
	bucketMeta  = "meta"

	metaIndex     = "consistent_index"
	metaTerm      = "term"
	metaScheduled = "scheduledCompactRev"
	metaFinished  = "finishedCompactRev"
)

// snapshotBuckets are those that etcd expects, be they empty.
func snapshotBuckets() []string {
	return []string{
		bucketKey, bucketMeta, bucketLease, "alarm", "cluster", "members", "members_removed",
		"auth", "authUsers", "authRoles",
	}
}

const (
	revisionLen = 17
	tombstone   = 't'
)

// etcdRevision is a key of the bucket key.
func etcdRevision(main, sub int64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, revisionLen+1), uint64(main))
	return binary.BigEndian.AppendUint64(append(b, '_'), uint64(sub))
}

func parseEtcdRevision(b []byte) (main, sub int64, deleted bool, err error) {
	deleted = len(b) == revisionLen+1 && b[revisionLen] == tombstone
	if len(b) != revisionLen && !deleted || b[8] != '_' {
		return 0, 0, false, fmt.Errorf("%x is not a revision", b)
	}
	main, sub = int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[9:]))
	if main < 0 || sub < 0 {
		return 0, 0, false, errors.New("a revision is negative")
	}
	return main, sub, deleted, nil
}
