package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
)

func versionOf(id int64, size int) *Version {
	v := &Version{Key: fmt.Sprint(id), ID: id, Version: 1}
	v.SetValue(bytes.Repeat([]byte{byte(id)}, size))
	return v
}

// resident are the IDs of the values that are in memory. It does not count as
// reading them.
func resident(all []*Version) (ids []int64) {
	for _, v := range all {
		if v.value.Load() != nil {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

// sound checks the list of a cache and its sums.
func sound(t *testing.T, c *Cache) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var sum int64
	n := 0
	var last *Version
	for v := c.head; v != nil; last, v = v, v.next {
		if v.prev != last {
			t.Fatalf("version %d does not point back", v.ID)
		}
		if v.value.Load() == nil {
			t.Fatalf("version %d is in the cache without a value", v.ID)
		}
		sum += int64(v.Size) + overhead
		n++
	}
	if c.tail != last || sum != c.bytes || n != c.count || sum > c.budget {
		t.Fatalf("cache of %d bytes, %d values (budget %d): found %d, %d", c.bytes, c.count, c.budget, sum, n)
	}
}

func TestCacheKeepsItsBudget(t *testing.T) {
	t.Parallel()
	c := NewCache(10_000, 2_000)
	r := rand.New(rand.NewPCG(1, 1))
	var all []*Version
	for id := range int64(1000) {
		v := versionOf(id, r.IntN(2200))
		all = append(all, v)
		c.Add(v)
		old := all[r.IntN(len(all))]
		switch r.IntN(4) {
		case 0:
			c.Drop(old)
		case 1:
			old.Value()
		case 2:
			if _, ok := old.Value(); !ok {
				c.Admit(old, make([]byte, old.Size))
			}
		}
		sound(t, c)
	}
	var values int64
	for _, v := range all {
		if v.value.Load() != nil {
			values += int64(v.Size) + overhead
		}
	}
	if held, _ := c.Size(); held != values {
		t.Errorf("the cache counts %d bytes, and %d are in memory", held, values)
	}
	for _, v := range all {
		c.Drop(v)
	}
	if held, n := c.Size(); held != 0 || n != 0 || len(resident(all)) != 0 {
		t.Errorf("empty: %d bytes, %d values", held, n)
	}
}

// The oldest goes, unless it was read: then it counts as new, and as not read.
func TestCacheEvictsWhatIsNotRead(t *testing.T) {
	t.Parallel()
	const size = 100 - overhead
	c := NewCache(400, 100) // four of them
	var all []*Version
	add := func() {
		v := versionOf(int64(len(all)), size)
		all = append(all, v)
		c.Add(v)
	}
	for range 4 {
		add()
	}
	all[0].Value()
	all[2].Value()
	for _, want := range [][]int64{
		{0, 2, 3, 4}, // 0 is spared, 1 goes
		{0, 2, 4, 5}, // 2 is spared, 3 goes
		{0, 2, 5, 6}, // 4 goes: 0 counts as newer
		{2, 5, 6, 7}, // 0 goes: it was not read since
	} {
		add()
		if got := resident(all); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("in memory: %v, want %v", got, want)
		}
	}
	// What is read in between stays, however much comes and goes.
	for range 50 {
		all[2].Value()
		all[7].Value()
		add()
	}
	if got := resident(all)[:2]; fmt.Sprint(got) != "[2 7]" {
		t.Errorf("in memory: %v", got)
	}
	sound(t, c)
}

// Whatever was in the cache before: values that are read over and over get into
// it when there is room for all of them.
func TestCacheFollowsTheReaders(t *testing.T) {
	t.Parallel()
	const size, held, wanted = 100 - overhead, 100, 60
	for read := range int64(held) { // so many were read, once, of those that nobody wants now
		c := NewCache(held*100, 100)
		var all []*Version
		for id := range int64(wanted + held) {
			v := versionOf(id, size)
			all = append(all, v)
			c.Add(v)
			if id >= wanted && id < wanted+read {
				v.Value()
			}
		}
		missed := 0
		for range 4 {
			missed = 0
			for _, v := range all[:wanted] {
				if _, ok := v.Value(); !ok {
					missed++
					c.Admit(v, make([]byte, size))
				}
			}
		}
		if missed > 0 {
			t.Errorf("after %d that were read: %d of %d values are read from the log again and again", read, missed, wanted)
		}
		sound(t, c)
	}
}

func TestCacheAdmitsWhatIsScannedTwice(t *testing.T) {
	t.Parallel()
	const size = 100 - overhead
	c := NewCache(300, 100) // three of them
	var all []*Version
	for id := range int64(6) {
		v := versionOf(id, size)
		all = append(all, v)
		c.Add(v)
	}
	for _, want := range []string{"[3 4 5]", "[0 1 2]"} {
		for _, v := range all[:3] {
			if _, ok := v.Value(); !ok {
				c.Scanned(v, make([]byte, size))
			}
		}
		if got := fmt.Sprint(resident(all)); got != want {
			t.Errorf("in memory: %s, want %s", got, want)
		}
	}
	sound(t, c)
}

func TestCacheDoesNotKeepLongValues(t *testing.T) {
	t.Parallel()
	c := NewCache(10_000, 100)
	long, short := versionOf(1, 101), versionOf(2, 100)
	c.Add(long)
	c.Add(short)
	c.Admit(long, make([]byte, 101))
	if _, ok := long.Value(); ok {
		t.Error("a long value is in memory")
	}
	if v, ok := short.Value(); !ok || len(v) != 100 {
		t.Error("a short value is not in memory")
	}
	empty := versionOf(3, 0)
	c.Add(empty)
	c.Admit(empty, nil)
	c.Drop(empty)
	if v, ok := empty.Value(); !ok || v != nil {
		t.Errorf("an empty value: %v, %v", v, ok)
	}
	if bytes, n := c.Size(); n != 1 || bytes != 100+overhead {
		t.Errorf("%d values of %d bytes", n, bytes)
	}
	if c := NewCache(10, 100); true { // less than one value
		v := versionOf(4, 50)
		c.Add(v)
		if _, n := c.Size(); n != 0 || v.value.Load() != nil {
			t.Error("a value that is larger than the budget is kept")
		}
	}
}

// Values are read, admitted and dropped at once, and are always right.
func TestCacheFromManyGoroutines(t *testing.T) {
	t.Parallel()
	c := NewCache(2_000, 1_000)
	all := make([]*Version, 64)
	for i := range all {
		all[i] = versionOf(int64(i), 1+i)
		c.Add(all[i])
	}
	var wg sync.WaitGroup
	for worker := range uint64(8) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(worker, 1))
			for range 5_000 {
				v := all[r.IntN(len(all))]
				if value, ok := v.Value(); !ok {
					c.Admit(v, bytes.Repeat([]byte{byte(v.ID)}, v.Size))
				} else if len(value) != v.Size || value[0] != byte(v.ID) {
					t.Errorf("version %d has value %v", v.ID, value)
					return
				}
				if r.IntN(3) == 0 {
					c.Drop(v)
				}
			}
		})
	}
	wg.Wait()
	sound(t, c)
	if _, n := c.Size(); n != len(resident(all)) {
		t.Errorf("%d values in the cache, %d in memory", n, len(resident(all)))
	}
}
