package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ErrNothingToRecover is the cause when no snapshot could be used.
var ErrNothingToRecover = errors.New("no snapshot can be used")

// Attempt is a snapshot that could not be used, and why.
type Attempt struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Recovered is what Recover did, for an event and for `limpet status`.
type Recovered struct {
	Restored
	At    time.Time `json:"at"`
	Cause string    `json:"cause,omitempty"`
	Tried []Attempt `json:"tried,omitempty"` // newer ones that could not be used
}

func (r Recovered) String() string {
	var b strings.Builder
	b.WriteString("the datastore was damaged")
	if r.Cause != "" {
		fmt.Fprintf(&b, " (%s)", r.Cause)
	}
	fmt.Fprintf(&b, ", so limpet %s. Changes after the snapshot are lost", r.Restored)
	if len(r.Tried) > 0 {
		fmt.Fprintf(&b, "; %s", describeAttempts(r.Tried))
	}
	return b.String()
}

func describeAttempts(tried []Attempt) string {
	words := make([]string, len(tried))
	for i, a := range tried {
		words[i] = a.Name + " (" + a.Reason + ")"
	}
	return "could not be used: " + strings.Join(words, ", ")
}

// Recover restores the newest snapshot in dir that is good, when the database
// db is damaged. If there is none it fails, and nothing has changed.
//
// Only snapshots of the database that db was are considered. If it cannot be
// read what that was, it is the one that a snapshot was taken of last: to come
// up with the content of an older cluster is worse than not to come up.
func Recover(ctx context.Context, db, dir string, o RestoreOptions) (Recovered, error) {
	o = o.complete()
	unlock, err := lockDatabase(db)
	if err != nil {
		return Recovered{}, fmt.Errorf("recover datastore %s: %w", db, err)
	}
	defer unlock()
	r, err := recoverFrom(ctx, db, dir, o)
	if err != nil {
		return Recovered{}, fmt.Errorf("recover datastore %s: %w", db, err)
	}
	o.Logger.Warn("the datastore was damaged and has been recovered from a snapshot",
		"snapshot", r.Snapshot.Name, "created", r.Snapshot.Created, "aside", r.Aside, "cause", r.Cause)
	return r, nil
}

func recoverFrom(ctx context.Context, db, dir string, o RestoreOptions) (Recovered, error) {
	list, err := List(dir)
	if err != nil {
		return Recovered{}, err
	}
	var id int64
	if old, err := peek(ctx, db); err == nil {
		id = old.Created
	}
	r := Recovered{At: o.Now().UTC()}
	if o.Cause != nil {
		r.Cause = o.Cause.Error()
	}
	list, others := candidates(list, o.Node, id)
	for _, i := range list {
		err := errors.New(i.Damage)
		if i.Damage == "" {
			if r.Restored, err = restore(ctx, i.Path, db, o); err == nil {
				return r, nil
			}
		}
		if ctx.Err() != nil {
			return Recovered{}, ctx.Err()
		}
		if errors.As(err, new(placeError)) {
			return Recovered{}, noSpace(err)
		}
		o.Logger.Warn("a snapshot cannot be used", "snapshot", i.Path, "error", err)
		r.Tried = append(r.Tried, Attempt{Name: i.Name, Reason: noSpace(err).Error()})
	}
	return Recovered{}, hopeless(db, dir, r.Tried, others)
}

// candidates returns the snapshots to try, newest first, and how many are of
// another node or database. id is the database's; 0 if nobody knows.
func candidates(list []Info, node string, id int64) (use []Info, others int) {
	slices.SortFunc(list, newestFirst)
	if id == 0 {
		var last time.Time
		for _, i := range list {
			if i.Damage == "" && (node == "" || i.Node == nodeName(node)) && i.Created.After(last) {
				last, id = i.Created, i.Database
			}
		}
	}
	for _, i := range list {
		// Damaged ones are tried, so that they are mentioned.
		if (node == "" || i.Node == nodeName(node)) && (i.Damage != "" || i.Database == id) {
			use = append(use, i)
		} else {
			others++
		}
	}
	return use, others
}

// hopeless says what was tried and what can be done.
func hopeless(db, dir string, tried []Attempt, others int) error {
	what := "there is none in " + dir
	if len(tried) > 0 {
		what = "in " + dir + " " + describeAttempts(tried)
	}
	if others > 0 {
		what += fmt.Sprintf("; %d of another node or datastore were not tried", others)
	}
	return fmt.Errorf("%w: %s. Nothing was changed. Get a snapshot from somewhere else (a bucket, another machine) and "+
		"restore it with `limpet snapshot restore FILE`; or, to start with an empty cluster, move %s, %s-wal and %s-shm away",
		ErrNothingToRecover, what, db, db, db)
}
