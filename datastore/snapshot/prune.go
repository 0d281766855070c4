package snapshot

import (
	"context"
	"fmt"
	"slices"
)

// DefaultRetention is how many scheduled snapshots are kept.
const DefaultRetention = 5

// Ring names the snapshots among which only the newest are kept. Snapshots for
// other reasons (those that somebody asked for, say), of other nodes and of
// other databases do not count, and are not touched.
type Ring struct {
	Node   string
	Reason Reason
	Keep   int // 0 keeps all
}

// excess returns those that the ring has no room for, oldest first.
//
// Each database has a ring of its own: a datastore that was started anew has
// lower revisions than the one before, and its snapshots would be deleted first.
func (r Ring) excess(list []Info) []Info {
	if r.Keep <= 0 {
		return nil
	}
	list = slices.Clone(list)
	slices.SortFunc(list, newestFirst)
	seen := map[int64]int{}
	var out []Info
	for _, i := range list {
		if i.Damage != "" || i.Node != nodeName(r.Node) || i.Reason != r.Reason {
			continue
		}
		if seen[i.Database]++; seen[i.Database] > r.Keep {
			out = append(out, i)
		}
	}
	slices.Reverse(out)
	return out
}

// Prune deletes the snapshots in dir that the ring has no room for, and returns
// their names. It is to be called after a Save, never before.
func Prune(ctx context.Context, dir string, r Ring) (deleted []string, err error) {
	err = locked(ctx, dir, func() error {
		list, err := List(dir)
		if err != nil {
			return err
		}
		for _, i := range r.excess(list) {
			deleted = append(deleted, i.Name)
		}
		if len(deleted) == 0 {
			return nil
		}
		return removeAll(dir, deleted...)
	})
	if err != nil {
		return nil, fmt.Errorf("delete old snapshots in %s: %w", dir, err)
	}
	return deleted, nil
}
