package deploy

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// parallelRequests is how many objects of a class are handled at a time.
const parallelRequests = 8

// objects is what an executor does to single objects; see cluster.
type objects interface {
	apply(ctx context.Context, id fileID, obj *unstructured.Unstructured) error
	prune(ctx context.Context, id fileID, r ref) (deleted bool, err error)
	// forget is called when kinds may have come or gone.
	forget()
}

// executor makes steps true in the cluster.
type executor struct {
	objects objects
	journal *journal
}

// job is a step under way.
type job struct {
	step
	mu sync.Mutex
	outcome
}

func (j *job) fail(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.errs = append(j.errs, err)
}

func (j *job) failed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.errs) > 0
}

// run executes all steps side by side, class by class, so that a file can
// build on what another one brings. A step that fails does not stop the others,
// but deletes nothing. The outcomes are in the order of the steps.
func (e *executor) run(ctx context.Context, steps []step) []outcome {
	jobs := make([]*job, len(steps))
	for i, s := range steps {
		jobs[i] = &job{step: s}
	}
	e.each(jobs, func(j *job) error {
		return e.journal.put(ctx, record{id: j.id, checksum: j.checksum, refs: j.during})
	})
	e.apply(ctx, jobs)
	e.prune(ctx, jobs)
	e.each(jobs, func(j *job) error {
		if len(j.after) == 0 {
			return e.journal.drop(ctx, j.id)
		}
		return e.journal.put(ctx, record{id: j.id, checksum: j.checksum, refs: j.after})
	})
	outcomes := make([]outcome, len(jobs))
	for i, j := range jobs {
		outcomes[i] = j.outcome
	}
	return outcomes
}

// each calls do for every job that has not failed.
func (e *executor) each(jobs []*job, do func(*job) error) {
	var group errgroup.Group
	group.SetLimit(parallelRequests)
	for _, j := range jobs {
		if j.failed() {
			continue
		}
		group.Go(func() error {
			if err := do(j); err != nil {
				j.fail(err)
			}
			return nil
		})
	}
	_ = group.Wait() // errors are with the jobs
}

func (e *executor) apply(ctx context.Context, jobs []*job) {
	sorted := make([][classCount][]*unstructured.Unstructured, len(jobs))
	for i, j := range jobs {
		if !j.failed() { // without a record nothing is created
			sorted[i] = byClass(j.apply)
		}
	}
	for c := range classCount {
		var group errgroup.Group
		group.SetLimit(parallelRequests)
		count := 0
		for i, j := range jobs {
			for _, obj := range sorted[i][c] {
				count++
				group.Go(func() error {
					e.applyOne(ctx, j, obj)
					return nil
				})
			}
		}
		_ = group.Wait() // errors are with the jobs
		if c == classDefinition && count > 0 {
			e.objects.forget() // there are new kinds now
		}
	}
}

func (e *executor) applyOne(ctx context.Context, j *job, obj *unstructured.Unstructured) {
	if err := e.objects.apply(ctx, j.id, obj); err != nil {
		j.fail(fmt.Errorf("%s: %w", refOf(obj), err))
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.applied++
}

// prune deletes in the reverse order of apply.
func (e *executor) prune(ctx context.Context, jobs []*job) {
	sorted := make([][classCount][]ref, len(jobs))
	for i, j := range jobs {
		if !j.failed() {
			sorted[i] = refsByClass(j.prune)
		}
	}
	for c := classCount - 1; c >= 0; c-- {
		var group errgroup.Group
		group.SetLimit(parallelRequests)
		for i, j := range jobs {
			for _, r := range sorted[i][c] {
				group.Go(func() error {
					e.pruneOne(ctx, j, r)
					return nil
				})
			}
		}
		_ = group.Wait() // errors are with the jobs
	}
}

func (e *executor) pruneOne(ctx context.Context, j *job, r ref) {
	deleted, err := e.objects.prune(ctx, j.id, r)
	if err != nil {
		j.fail(fmt.Errorf("delete %s: %w", r, err))
		return
	}
	if deleted {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.pruned++
	}
}
