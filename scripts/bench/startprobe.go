package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/status"
)

const (
	// probePause is between two looks at what announces itself by no event.
	probePause = 5 * time.Millisecond
	// startLimit bounds one start; one that takes longer is broken.
	startLimit = 2 * time.Minute
	// readyzAtOnce requests wait side by side.
	readyzAtOnce = 4

	firstPod = "first"
)

// startProbe observes one start of limpet.
type startProbe struct {
	node    *node
	started time.Time // exec
	run     startRun
}

// probeStart returns when all milestones are reached:
//
//   - /readyz answers 200 to the administrator
//   - the Node is Ready, by a heartbeat of this start
//   - the cluster's DNS address answers for the Service "kubernetes", through
//     the Service and from the node
//   - the ServiceAccount "default" exists, without which no pod is accepted
//   - a pod that was created as soon as the API accepted it is Running
func probeStart(ctx context.Context, n *node) (startRun, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not complete after %s", startLimit))
	defer cancel()
	started, err := startOf(n.limpet)
	if err != nil {
		return startRun{}, fmt.Errorf("start of limpet: %w", err)
	}
	p := &startProbe{node: n, started: started}
	cfg, err := p.awaitAPI(ctx)
	if err != nil {
		return startRun{}, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return startRun{}, fmt.Errorf("client: %w", err)
	}
	if err := p.awaitAll(ctx, cfg, client); err != nil {
		return startRun{}, err
	}
	report, err := n.status(ctx)
	if err != nil {
		return startRun{}, err
	}
	p.run.steps = steps(p.run, report, started)
	return p.run, nil
}

func (p *startProbe) awaitAll(ctx context.Context, cfg *rest.Config, client kubernetes.Interface) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.awaitReadyz(ctx, cfg) })
	group.Go(func() error { return p.awaitNode(ctx, client) })
	group.Go(func() error { return p.awaitDNS(ctx) })
	group.Go(func() error { return p.awaitPod(ctx, client) })
	return group.Wait()
}

// reached records a milestone; each has one goroutine that does.
func (p *startProbe) reached(milestone int) { p.run.at[milestone] = time.Since(p.started) }

// await tries until it returns true; an error that remains when limpet ends or
// the time is up is the reason.
func (p *startProbe) await(ctx context.Context, what string, try func() (bool, error)) error {
	return awaitUnlessEnded(ctx, what, p.node.ended, try)
}

// awaitUnlessEnded is await for a limpet whose end is told by ended.
func awaitUnlessEnded(ctx context.Context, what string, ended func() error, try func() (bool, error)) error {
	for {
		done, err := try()
		if done {
			return nil
		}
		if ended := ended(); ended != nil {
			return fmt.Errorf("wait for %s: %w", what, errors.Join(ended, err))
		}
		if !sleep(ctx, probePause) {
			return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), err))
		}
	}
}

// awaitAPI returns when the API server accepts connections. All others look
// from then on only.
func (p *startProbe) awaitAPI(ctx context.Context) (*rest.Config, error) {
	var cfg *rest.Config
	err := p.await(ctx, "the API server to listen", func() (bool, error) {
		var err error
		if cfg, err = p.node.restConfig(); err != nil {
			return false, err
		}
		conn, err := p.node.dial(ctx, "tcp", apiAddress(cfg))
		if err != nil {
			return false, err
		}
		return true, conn.Close()
	})
	return cfg, err
}

func (p *startProbe) awaitReadyz(ctx context.Context, cfg *rest.Config) error {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer client.CloseIdleConnections()
	at, err := poll(ctx, "/readyz", readyzAtOnce, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cfg.Host+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }() // its status is all that counts
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	p.run.at[apiReady] = at.Sub(p.started)
	return err
}

// awaitDNS asks the cluster's DNS, from the node and through the Service.
func (p *startProbe) awaitDNS(ctx context.Context) error {
	at, err := poll(ctx, "DNS", dnsAtOnce, p.node.askDNS)
	p.run.at[dnsAnswers] = at.Sub(p.started)
	return err
}

// awaitNode waits for a Ready condition of this start: on an existing data
// directory the last one's is still there.
func (p *startProbe) awaitNode(ctx context.Context, client kubernetes.Interface) error {
	reason := "it has not registered"
	err := p.await(ctx, "the node to be Ready", func() (bool, error) {
		return watchOne(ctx, client.CoreV1().Nodes(), nodeName, func(n *corev1.Node) bool {
			reason = notReady(n, p.started.Truncate(time.Second))
			if reason == "" {
				p.reached(nodeReady)
			}
			return reason == ""
		})
	})
	if err != nil {
		return fmt.Errorf("%w (%s)", err, reason)
	}
	return nil
}

// notReady tells why the node is not Ready; "" if it is, by a heartbeat not older than since.
func notReady(n *corev1.Node, since time.Time) string {
	for _, c := range n.Status.Conditions {
		switch {
		case c.Type != corev1.NodeReady:
		case c.LastHeartbeatTime.Time.Before(since):
			return "no heartbeat yet"
		case c.Status != corev1.ConditionTrue:
			return c.Message
		default:
			return ""
		}
	}
	return "no Ready condition yet"
}

// awaitPod creates a pod as soon as its ServiceAccount is there and waits until
// it is Running.
func (p *startProbe) awaitPod(ctx context.Context, client kubernetes.Interface) error {
	err := p.await(ctx, "the default ServiceAccount", func() (bool, error) {
		return watchOne(ctx, client.CoreV1().ServiceAccounts(metav1.NamespaceDefault), "default",
			func(*corev1.ServiceAccount) bool { p.reached(accountThere); return true })
	})
	if err != nil {
		return err
	}
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	err = p.await(ctx, "the first pod to be accepted", func() (bool, error) {
		_, err := pods.Create(ctx, barePod(firstPod), metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err), err
	})
	if err != nil {
		return err
	}
	return p.await(ctx, "the first pod to be Running", func() (bool, error) {
		return watchOne(ctx, pods, firstPod, func(pod *corev1.Pod) bool {
			if pod.Status.Phase != corev1.PodRunning {
				return false
			}
			p.reached(firstPodRuns)
			return true
		})
	})
}

// deleteFirstPod removes the pod at once; the node ends its container soon after.
func deleteFirstPod(ctx context.Context, n *node) error { return deletePod(ctx, n, firstPod) }

// deletePod asks the API of the server's node n.
func deletePod(ctx context.Context, n *node, name string) error {
	client, err := n.client()
	if err != nil {
		return err
	}
	now := int64(0)
	pods := client.CoreV1().Pods(metav1.NamespaceDefault)
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return nil
}

// steps puts the components' record and the milestones in the order of time.
func steps(run startRun, report status.Report, started time.Time) []step {
	list := componentSteps(report, started)
	for i, m := range milestones() {
		list = append(list, step{run.at[i], "→ " + m.title})
	}
	sortSteps(list)
	return list
}

func sortSteps(list []step) {
	slices.SortStableFunc(list, func(a, b step) int { return cmp.Compare(a.at, b.at) })
}

// componentSteps are the components' record.
func componentSteps(report status.Report, started time.Time) []step {
	after := func(t time.Time) time.Duration { return t.Sub(started) }
	list := []step{{after(report.Started), "limpet's main: configuration, payload, certificates"}}
	for _, c := range report.Components {
		if c.ReadyAfter == 0 {
			continue
		}
		s := step{after(report.Started.Add(c.ReadyAfter)), fmt.Sprintf("%s is ready, took %.2f", c.Name, seconds(c.Took))}
		if began, ok := firstStart(c); ok {
			s.what = fmt.Sprintf("%s is ready, began at %.2f, took %.2f", c.Name, seconds(after(began)), seconds(c.Took))
		}
		list = append(list, s)
	}
	return list
}

func firstStart(c component.State) (time.Time, bool) {
	for _, t := range c.History {
		if t.Phase == component.Starting {
			return t.At, true
		}
	}
	return time.Time{}, false
}
