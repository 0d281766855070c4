// Package engine is the datastore's core: what the keys are, what a request
// changes, and what it answers, by the rules of etcd's API. It does no I/O, has
// no clock and starts no goroutine, so that it can be fuzzed against a model.
//
// A State is immutable: whoever has one can read it without locks for as long
// as they like. A change begins with State.Begin, which gives a Pending that
// shares everything with the State it came from (the trees copy a node when
// they write to it), takes any number of requests, and becomes the next State.
// To drop a Pending is to undo it: nothing of it was ever visible.
//
// Values need not be in memory: a Version knows the record that holds its value
// in the log, and a Reader fetches it.
package engine

import (
	"github.com/tidwall/btree"
)

// SubBits is how much of a record's ID numbers the changes within a revision: a
// request may change a million keys. 43 bits are left for the revision: at
// 10 000 a second they last for 27 years.
const SubBits = 20

// MaxChanges is how many keys one request can change.
const MaxChanges = 1<<SubBits - 1

// ID is that of the sub-th record of a revision: IDs order all changes.
func ID(revision int64, sub int) int64 { return revision<<SubBits | int64(sub) }

// Revision is the revision that a record belongs to.
func Revision(id int64) int64 { return id >> SubBits }

// Reader fetches what a State only refers to.
type Reader interface {
	// Values returns the values of versions, in their order.
	Values(versions []*Version) ([][]byte, error)
	// Record returns the version that a record of the log holds; nil if it was
	// compacted away.
	Record(id int64) (*Version, error)
}

// State is all keys and leases as of one revision.
type State struct {
	// Revision is that of the last change; 1 in an empty store, as in etcd.
	Revision int64
	// Compacted is the revision below which there is no history: reading at it
	// works, reading before it does not.
	Compacted int64

	live     *btree.BTreeG[*Version]   // by key
	dead     *btree.BTreeG[*Version]   // tombstones newer than Compacted, by key
	leases   *btree.BTreeG[Lease]      // by ID
	attached *btree.BTreeG[attachment] // by lease, then key
}

// Lease is a promise to delete keys when nobody asks for them any more.
type Lease struct {
	ID  int64
	TTL int64 // seconds, as granted
}

type attachment struct {
	lease int64
	key   string
}

// unlocked: a State is not written to, and a Pending has one user.
var unlocked = btree.Options{NoLocks: true}

// New is an empty State.
func New() *State {
	byKey := func(a, b *Version) bool { return a.Key < b.Key }
	return &State{
		Revision: 1,
		live:     btree.NewBTreeGOptions(byKey, unlocked),
		dead:     btree.NewBTreeGOptions(byKey, unlocked),
		leases:   btree.NewBTreeGOptions(func(a, b Lease) bool { return a.ID < b.ID }, unlocked),
		attached: btree.NewBTreeGOptions(func(a, b attachment) bool {
			return a.lease < b.lease || a.lease == b.lease && a.key < b.key
		}, unlocked),
	}
}

// copy shares everything with s until one of the two is written to.
func (s *State) copy() State {
	return State{
		Revision: s.Revision, Compacted: s.Compacted,
		live: s.live.Copy(), dead: s.dead.Copy(), leases: s.leases.Copy(), attached: s.attached.Copy(),
	}
}

// Len is the number of keys.
func (s *State) Len() int { return s.live.Len() }

// Get returns the current version of a key; nil if there is none.
func (s *State) Get(key string) *Version {
	v, _ := s.live.Get(&Version{Key: key})
	return v
}

// Lease returns a lease by its ID.
func (s *State) Lease(id int64) (Lease, bool) { return s.leases.Get(Lease{ID: id}) }

// Leases returns all leases in the order of their IDs.
func (s *State) Leases() []Lease { return s.leases.Items() }

// Attached returns the keys that a lease holds, in their order.
func (s *State) Attached(lease int64) []string {
	var keys []string
	s.attached.Ascend(attachment{lease: lease}, func(a attachment) bool {
		if a.lease != lease {
			return false
		}
		keys = append(keys, a.key)
		return true
	})
	return keys
}

// Interval is a set of keys as etcd's requests give it: one key if End is
// empty, all from Key on if End is "\x00", and otherwise those from Key up to
// and without End.
type Interval struct{ Key, End string }

const toTheEnd = "\x00"

func interval(key, end []byte) Interval { return Interval{Key: string(key), End: string(end)} }

func (i Interval) single() bool { return i.End == "" }

// Contains reports whether a key belongs to the interval.
func (i Interval) Contains(key string) bool {
	switch {
	case i.single():
		return key == i.Key
	case i.End == toTheEnd:
		return key >= i.Key
	}
	return key >= i.Key && key < i.End
}

// scan calls fn with each current version in the interval, by key, until it
// returns false.
func (s *State) scan(in Interval, fn func(*Version) bool) {
	if in.single() {
		if v := s.Get(in.Key); v != nil {
			fn(v)
		}
		return
	}
	s.live.Ascend(&Version{Key: in.Key}, func(v *Version) bool { return in.Contains(v.Key) && fn(v) })
}

// count is the number of current keys in the interval, by the order statistics
// of the tree: it costs the same for a million keys as for ten.
func (s *State) count(in Interval) int {
	if in.single() {
		if s.Get(in.Key) != nil {
			return 1
		}
		return 0
	}
	n := s.live.Len()
	if in.End != toTheEnd {
		n = s.rank(in.End)
	}
	return max(0, n-s.rank(in.Key))
}

// rank is the number of keys before a key.
func (s *State) rank(key string) int {
	low, high := 0, s.live.Len()
	for low < high {
		mid := (low + high) / 2
		if v, _ := s.live.GetAt(mid); v.Key < key {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}
