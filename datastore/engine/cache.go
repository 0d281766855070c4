package engine

import "sync"

// Cache bounds the memory that values take. It evicts the oldest, but gives those
// that were read a second chance (CLOCK). SIEVE, which is simpler still, can keep
// for ever what nobody reads: once its hand is near the newest values, it evicts
// each newcomer before that can be read again.
//
// A scan of everything costs the values that are read often nothing: see Scanned.
type Cache struct {
	budget int64 // bytes of values
	single int   // bytes of one value beyond which it is not kept

	mu    sync.Mutex
	bytes int64
	count int
	head  *Version // the newest, and what got a second chance
	tail  *Version // the next victim
}

// overhead is what a value costs beside its bytes: the slice header and what the
// allocator rounds up to.
const overhead = 48

// NewCache keeps up to budget bytes of values in memory, and none longer than
// single bytes.
func NewCache(budget int64, single int) *Cache { return &Cache{budget: budget, single: single} }

// Add takes a version whose value is in memory. It is in no cache.
func (c *Cache) Add(v *Version) {
	if v.value.Load() == nil {
		return
	}
	if v.Size > c.single {
		v.value.Store(nil)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link(v)
	c.bytes += int64(v.Size) + overhead
	c.count++
	for c.bytes > c.budget {
		c.evict()
	}
}

// Admit puts the value of a version into memory that was read from the log.
func (c *Cache) Admit(v *Version, value []byte) {
	if len(value) == 0 || len(value) > c.single || !v.value.CompareAndSwap(nil, &value) {
		return
	}
	c.Add(v)
}

// Scanned is Admit for a value that was read along with many others: what a list
// of everything wants once is not what is wanted next. It is admitted when it is
// read for the second time.
func (c *Cache) Scanned(v *Version, value []byte) {
	if v.used.Swap(true) {
		c.Admit(v, value)
	}
}

// Drop forgets the value of a version that is not current any more.
func (c *Cache) Drop(v *Version) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v == c.head || v.next != nil || v.prev != nil {
		c.remove(v)
	}
}

// Size is the memory of the values, in bytes, and their number.
func (c *Cache) Size() (bytes int64, count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes, c.count
}

// evict removes one value; the cache is not empty.
func (c *Cache) evict() {
	for {
		v := c.tail
		if !v.used.Swap(false) {
			c.remove(v)
			return
		}
		c.unlink(v)
		c.link(v)
	}
}

func (c *Cache) remove(v *Version) {
	c.unlink(v)
	v.value.Store(nil)
	c.bytes -= int64(v.Size) + overhead
	c.count--
}

// link makes a version the newest.
func (c *Cache) link(v *Version) {
	v.next = c.head
	if c.head != nil {
		c.head.prev = v
	} else {
		c.tail = v
	}
	c.head = v
}

func (c *Cache) unlink(v *Version) {
	if v.prev != nil {
		v.prev.next = v.next
	} else {
		c.head = v.next
	}
	if v.next != nil {
		v.next.prev = v.prev
	} else {
		c.tail = v.prev
	}
	v.next, v.prev = nil, nil
}
