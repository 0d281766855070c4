package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
)

// configMaps is the part of corev1client.ConfigMapInterface that a journal uses.
type configMaps interface {
	List(context.Context, metav1.ListOptions) (*corev1.ConfigMapList, error)
	Apply(context.Context, *applycorev1.ConfigMapApplyConfiguration, metav1.ApplyOptions) (*corev1.ConfigMap, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

// journal holds the records of all files. The cluster's copy is read once; from
// then on this process is the only writer of the records that it uses.
type journal struct {
	maps configMaps
	log  *slog.Logger

	mu      sync.Mutex
	loaded  bool
	records map[fileID]record
}

// load reads the records when that was not yet possible. A ConfigMap that is
// labelled as a record but is none is logged and left alone.
func (j *journal) load(ctx context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.loaded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list, err := j.maps.List(ctx, metav1.ListOptions{LabelSelector: manifestLabel})
	if err != nil {
		return fmt.Errorf("list the records of manifests: %w", err)
	}
	j.records = make(map[fileID]record, len(list.Items))
	for i := range list.Items {
		r, err := decodeRecord(&list.Items[i])
		if err != nil {
			j.log.Warn("ignoring a ConfigMap", "err", err)
			continue
		}
		j.records[r.id] = r
	}
	j.loaded = true
	return nil
}

// all returns the records in the order of their files.
func (j *journal) all() []record {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]record, 0, len(j.records))
	for _, r := range j.records {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b record) int { return compareIDs(a.id, b.id) })
	return out
}

func (j *journal) get(id fileID) (record, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, ok := j.records[id]
	return r, ok
}

// put stores a record unless it is stored as it is.
func (j *journal) put(ctx context.Context, r record) error {
	if old, ok := j.get(r.id); ok && old.same(r) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	cm, err := j.maps.Apply(ctx, r.configMap(), metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return fmt.Errorf("record the objects of the file: %w", err)
	}
	r.uid = cm.UID
	j.mu.Lock()
	defer j.mu.Unlock()
	j.records[r.id] = r
	return nil
}

// drop deletes a record.
func (j *journal) drop(ctx context.Context, id fileID) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if err := j.maps.Delete(ctx, recordName(id), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the record of the file: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.records, id)
	return nil
}
