package datastore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// call is one of a child's calls.
type call struct {
	line
	answer *line
	// after is the highest revision that was known to anybody when it began.
	after int64
}

// crashHistory is what a child told, and what is in the file.
type crashHistory struct {
	*crasher
	seed    uint64
	opened  int64
	calls   map[int64]*call
	ordered []*call
	watches map[int64][]line // the first of each says where it began

	records []sqlog.Record
	byID    map[int64]*sqlog.Record
	byRev   map[int64][]*sqlog.Record // of this round
	byKey   map[string][]*sqlog.Record
}

func newHistory(c *crasher, lines []line, records []sqlog.Record, seed uint64) *crashHistory {
	h := &crashHistory{
		crasher: c, seed: seed, calls: map[int64]*call{}, watches: map[int64][]line{}, records: records,
		byID: map[int64]*sqlog.Record{}, byRev: map[int64][]*sqlog.Record{}, byKey: map[string][]*sqlog.Record{},
	}
	known := int64(0)
	for _, l := range lines {
		switch l.Kind {
		case "opened":
			h.opened, known = l.Revision, l.Revision
		case "call":
			h.calls[l.ID] = &call{line: l, after: known}
			h.ordered = append(h.ordered, h.calls[l.ID])
		case "done":
			h.calls[l.ID].answer = &l
			known = max(known, l.Revision)
		case "watch":
			h.watches[l.ID] = append(h.watches[l.ID], l)
		case "event":
			h.watches[l.ID] = append(h.watches[l.ID], l)
			known = max(known, sqlog.Revision(l.Mod))
			c.events++
		}
	}
	for i := range records {
		r := &records[i]
		h.byID[r.ID] = r
		h.byKey[r.Key] = append(h.byKey[r.Key], r)
		if rev := sqlog.Revision(r.ID); rev > h.opened {
			h.byRev[rev] = append(h.byRev[rev], r)
		}
	}
	if h.opened <= c.last {
		c.Errorf("opened at revision %d, and %d had been seen", h.opened, c.last)
	}
	c.last = max(c.last, known, h.opened)
	if n := len(records); n > 0 { // nobody heard of it, but it is there
		c.last = max(c.last, sqlog.Revision(records[n-1].ID))
	}
	return h
}

func (h *crashHistory) check() {
	h.checkOld()
	h.checkChains()
	effects := h.checkEffects()
	for _, c := range h.ordered {
		switch {
		case c.answer == nil:
			h.open++
			if effects[c.ID] != 0 {
				h.effective++
			}
			continue
		case c.Op == "read":
			h.checkRead(c)
		case c.Op == "put" || c.Op == "delete":
			h.checkWrite(c, effects)
		}
		h.answered++
	}
	for id, lines := range h.watches {
		h.checkWatch(id, lines)
	}
}

// checkOld: what was there before the round and was not superseded still is.
func (h *crashHistory) checkOld() {
	current := map[string]sqlog.Record{}
	for _, r := range h.before {
		current[r.Key] = r
	}
	for key, r := range current {
		now := h.byID[r.ID]
		switch {
		case r.Version == 0:
		case now != nil && string(now.Value) == string(r.Value) && now.Version == r.Version:
		default:
			h.Errorf("%q of revision %d, which was there before, is %v", key, sqlog.Revision(r.ID), now)
		}
	}
}

// checkChains: the versions of each key follow from each other.
func (h *crashHistory) checkChains() {
	for key, list := range h.byKey {
		for i, r := range list {
			if sqlog.Revision(r.ID) <= h.opened {
				continue
			}
			version, created := int64(1), sqlog.Revision(r.ID)
			if i > 0 && list[i-1].Version > 0 {
				version, created = list[i-1].Version+1, list[i-1].CreateRevision
				if r.Prev != list[i-1].ID {
					h.Errorf("%q at %x supersedes %x, want %x", key, r.ID, r.Prev, list[i-1].ID)
				}
			}
			if r.Version != 0 && (r.Version != version || r.CreateRevision != created) {
				h.Errorf("%q at %x: version %d, created %d; want %d, %d", key, r.ID, r.Version, r.CreateRevision, version, created)
			}
			if r.Version == 0 && (i == 0 || list[i-1].Version == 0) {
				h.Errorf("%q at %x is deleted without having been there", key, r.ID)
			}
		}
	}
}

// checkEffects: each revision is all of one call, and no call has two. It
// returns the revision of each put that is there.
func (h *crashHistory) checkEffects() map[int64]int64 {
	effects := map[int64]int64{}
	for rev, list := range h.byRev {
		if list[0].Version == 0 {
			if len(list) != 1 {
				h.Errorf("revision %d deletes %d keys", rev, len(list))
			}
			continue
		}
		var seed uint64
		var id int64
		if _, err := fmt.Sscanf(string(list[0].Value), "%d/%d ", &seed, &id); err != nil || seed != h.seed || h.calls[id] == nil {
			h.Errorf("revision %d puts %.40q, which nobody has asked for", rev, list[0].Value)
			continue
		}
		c := h.calls[id]
		if effects[id] != 0 {
			h.Errorf("call %d is there twice, at revisions %d and %d", id, effects[id], rev)
		}
		effects[id] = rev
		var keys []string
		for _, r := range list {
			keys = append(keys, r.Key)
			if string(r.Value) != padded(c.Value, r.Key) || r.Lease != c.Lease {
				h.Errorf("revision %d puts %q = %.40q with lease %d", rev, r.Key, r.Value, r.Lease)
			}
		}
		if !slices.Equal(keys, c.Keys) {
			h.Errorf("revision %d puts %q, want %q", rev, keys, c.Keys)
		}
		if rev <= c.after {
			h.Errorf("call %d began after revision %d, and has %d", id, c.after, rev)
		}
		if c.Expect != 0 {
			if prev := list[0].Prev; sqlog.Revision(prev) != c.Expect {
				h.Errorf("call %d compared with %d, and came after %d", id, c.Expect, sqlog.Revision(prev))
			}
		}
	}
	return effects
}

// checkWrite: what was acknowledged is there, and what was refused is not.
func (h *crashHistory) checkWrite(c *call, effects map[int64]int64) {
	a := c.answer
	switch {
	case a.OK && a.Revision <= c.after:
		h.Errorf("call %d began after revision %d, and was answered with %d", c.ID, c.after, a.Revision)
	case c.Op == "put" && a.OK && effects[c.ID] != a.Revision:
		h.Errorf("put %d of %q was acknowledged at revision %d, and is at %d (0: lost)", c.ID, c.Keys, a.Revision, effects[c.ID])
	case c.Op == "put" && !a.OK && effects[c.ID] != 0:
		h.Errorf("put %d was refused, and is there at revision %d", c.ID, effects[c.ID])
	case c.Op == "put" && !a.OK && c.Expect != 0:
		if mod, _ := h.at(c.Keys[0], a.Revision); mod == c.Expect {
			h.Errorf("put %d was refused at revision %d, where %q is at %d as expected", c.ID, a.Revision, c.Keys[0], mod)
		}
	case c.Op == "delete" && a.OK:
		if list := h.byRev[a.Revision]; len(list) != 1 || list[0].Version != 0 || list[0].Key != c.Keys[0] {
			h.Errorf("delete %d of %q was acknowledged at revision %d, where there is %v", c.ID, c.Keys, a.Revision, list)
		}
	case c.Op == "delete":
		if mod, _ := h.at(c.Keys[0], a.Revision); mod != 0 {
			h.Errorf("delete %d found nothing at revision %d, where %q is at %d", c.ID, a.Revision, c.Keys[0], mod)
		}
	}
}

// at is what a key was at a revision.
func (h *crashHistory) at(key string, revision int64) (mod int64, value string) {
	for _, r := range h.byKey[key] {
		if sqlog.Revision(r.ID) > revision {
			break
		}
		if mod, value = sqlog.Revision(r.ID), string(r.Value); r.Version == 0 {
			mod, value = 0, ""
		}
	}
	return mod, value
}

func (h *crashHistory) checkRead(c *call) {
	a := c.answer
	if a.Revision < c.after {
		h.Errorf("read %d began after revision %d, and was answered at %d", c.ID, c.after, a.Revision)
	}
	if mod, value := h.at(c.Keys[0], a.Revision); mod != a.Mod || value != a.Value {
		h.Errorf("read %d of %q at revision %d: %d %.30q, want %d %.30q", c.ID, c.Keys[0], a.Revision, a.Mod, a.Value, mod, value)
	}
}

// checkWatch: a watcher has seen the changes from its start on, each of them
// once, in their order, and none that is not in the file.
func (h *crashHistory) checkWatch(id int64, lines []line) {
	start, events := lines[0].Revision, lines[1:]
	n := 0
	for _, r := range h.records {
		if sqlog.Revision(r.ID) < max(start, h.opened+1) {
			continue
		}
		if n == len(events) {
			return
		}
		if e := events[n]; e.Mod != r.ID || e.Keys[0] != r.Key || e.Value != string(r.Value) || e.OK != (r.Version > 0) {
			h.Errorf("event %d of watcher %d is %x of %q, want %x of %q", n, id, e.Mod, e.Keys[0], r.ID, r.Key)
			return
		}
		n++
	}
	if n < len(events) {
		h.Errorf("watcher %d saw %d changes that are not in the file, the first is %x of %q", id, len(events)-n, events[n].Mod, events[n].Keys[0])
	}
}

// checkLeases: a lease is there from when it was granted to when it was revoked;
// while one of these is under way, either is right. Its key goes with it.
func (h *crashHistory) checkLeases(found map[int64]int64) {
	for _, c := range h.ordered {
		switch {
		case c.Op != "grant" && c.Op != "revoke":
		case c.answer == nil:
			delete(h.leases, c.Lease)
		default:
			h.leases[c.Lease] = c.Op == "grant"
		}
	}
	for id, want := range h.leases {
		if _, ok := found[id]; ok != want {
			h.Errorf("lease %d: %v, want %v", id, ok, want)
		}
	}
	for key, list := range h.byKey {
		r := list[len(list)-1]
		if !strings.HasPrefix(key, "leased/") || r.Version == 0 {
			continue
		}
		if _, ok := found[r.Lease]; !ok {
			h.Errorf("%q has lease %d, which does not exist", key, r.Lease)
		}
	}
	for id := range found {
		h.leases[id] = true
	}
	for id := int64(1); id <= 6; id++ {
		if _, ok := found[id]; !ok {
			h.leases[id] = false
		}
	}
}
