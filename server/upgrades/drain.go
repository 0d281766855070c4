package upgrades

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	upstream "k8s.io/kubectl/pkg/drain"
)

// evictTimeout bounds one round of evictions of one node.
const evictTimeout = 30 * time.Second

// drainAll makes one round of evictions on each node, and forgets the outcomes of
// nodes that are not drained any more.
func (r *run) drainAll(ctx context.Context, drains []drain) {
	outcomes := map[string]drained{}
	for _, d := range drains {
		last := r.drained[d.key]
		if last.began.IsZero() {
			last.began = time.Now()
		}
		outcomes[d.key] = r.evict(ctx, d, last.began)
	}
	r.drained = outcomes
}

// evict asks for the eviction of every pod that upstream's `kubectl drain` would
// evict. It waits for none of them: the next round sees what is left.
func (r *run) evict(ctx context.Context, d drain, began time.Time) drained {
	out := drained{began: began}
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	helper := &upstream.Helper{
		Ctx: ctx, Client: r.client, GracePeriodSeconds: -1, IgnoreAllDaemonSets: true,
		Force: d.how.Force, DeleteEmptyDirData: d.how.DeleteEmptyDirData, Out: io.Discard, ErrOut: io.Discard,
	}
	list, problems := helper.GetPodsForDeletion(d.node)
	switch {
	case len(problems) > 0 && list == nil: // they could not be listed
		out.left = errors.Join(problems...).Error()
		return out
	case len(problems) > 0:
		out.never = errors.Join(problems...).Error()
		return out
	}
	pods := list.Pods()
	if len(pods) == 0 {
		out.done = true
		return out
	}
	var names, refusals []string
	for _, pod := range pods {
		names = append(names, pod.Namespace+"/"+pod.Name)
		if pod.DeletionTimestamp != nil {
			continue
		}
		if why := evictOne(helper, pod); why != "" {
			refusals = append(refusals, why)
		}
	}
	slices.Sort(names)
	out.left = some(names)
	if len(refusals) > 0 {
		slices.Sort(refusals)
		out.left += "; " + strings.Join(refusals[:min(len(refusals), 2)], "; ")
	}
	return out
}

// some names a few of many.
func some(names []string) string {
	const most = 3
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// evictOne returns why a pod is not evicted; empty if it is, or has gone.
func evictOne(helper *upstream.Helper, pod corev1.Pod) string {
	err := helper.EvictPod(pod, policyv1.SchemeGroupVersion)
	switch {
	case err == nil, apierrors.IsNotFound(err):
		return ""
	case apierrors.IsTooManyRequests(err): // a disruption budget
		return fmt.Sprintf("%s/%s: %v", pod.Namespace, pod.Name, err)
	}
	return fmt.Sprintf("evict %s/%s: %v", pod.Namespace, pod.Name, err)
}
