package deploy

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// step is what one file asks for.
type step struct {
	id       fileID
	checksum string
	// remove says that the file is gone or disabled.
	remove bool
	// revision changes with everything that makes the step worth doing again.
	revision string
	apply    []*unstructured.Unstructured
	// prune are objects of the record that no file wants any more.
	prune []ref
	// during and after are what the record must list while the step is under
	// way, and when it is done; after is empty when the record shall go.
	during, after []ref
	// problems are objects of the file that cannot be applied because of what
	// stands in another place; only a change of a file can solve them.
	problems []string
}

// plan compares files with records and returns what to do for each file, in the
// order of their names, embedded ones first. scanned tells whose files are
// completely listed: the objects of all other records are left alone.
//
// An object belongs to the first file that holds it. A file that is held (see
// file.held) keeps the objects of its record, unless another file took one over.
func plan(files []file, records []record, scanned func(origin) bool) []step {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b file) int { return compareIDs(a.id, b.id) })
	recorded := make(map[fileID]record, len(records))
	for _, r := range records {
		recorded[r.id] = r
	}

	claims := make(map[key]fileID)
	var steps []step
	known := make(map[fileID]bool, len(files))
	held := make(map[fileID]bool)
	for i := range files {
		f := &files[i]
		known[f.id] = true
		switch {
		case f.held():
			held[f.id] = true
		case f.intent == intentApply:
			steps = append(steps, applyStep(f, claims))
		default:
			if rec, ok := recorded[f.id]; ok {
				steps = append(steps, removeStep(rec))
			}
		}
	}
	for id, rec := range recorded {
		switch {
		case !scanned(id.origin):
			held[id] = true
		case !known[id]:
			steps = append(steps, removeStep(rec))
		}
	}
	for id := range held {
		for _, r := range recorded[id].refs {
			if _, taken := claims[r.key()]; !taken {
				claims[r.key()] = id
			}
		}
	}
	for i := range steps {
		steps[i].complete(recorded[steps[i].id].refs, claims)
	}
	slices.SortFunc(steps, func(a, b step) int { return compareIDs(a.id, b.id) })
	return steps
}

func removeStep(rec record) step {
	return step{id: rec.id, checksum: rec.checksum, remove: true, revision: "remove"}
}

// applyStep claims the objects of a file.
func applyStep(f *file, claims map[key]fileID) step {
	s := step{id: f.id, checksum: f.checksum}
	for _, obj := range f.objects {
		r := refOf(obj)
		owner, taken := claims[r.key()]
		switch {
		case !taken:
			claims[r.key()] = f.id
			s.apply = append(s.apply, obj)
			s.after = append(s.after, r)
		case owner == f.id:
			s.problems = append(s.problems, fmt.Sprintf("%s stands in the file twice; the second one is ignored", r))
		default:
			s.problems = append(s.problems, fmt.Sprintf("%s is already in %s; this one is ignored", r, owner))
		}
	}
	s.revision = f.revision + " " + strings.Join(s.problems, " ")
	return s
}

// complete adds what must go.
func (s *step) complete(recorded []ref, claims map[key]fileID) {
	s.during = slices.Clone(s.after)
	for _, r := range recorded {
		if _, wanted := claims[r.key()]; wanted || r.isImmortal() {
			continue
		}
		s.prune = append(s.prune, r)
		s.during = append(s.during, r)
	}
	sortRefs(s.after)
	sortRefs(s.during)
}
