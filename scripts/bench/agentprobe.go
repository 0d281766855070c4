package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	agentRegistered = iota
	agentReady
	agentDNS
	agentPodRuns
	agentMilestoneCount
)

// agentMilestones in the order they are printed; for what each means see probeAgent.
func agentMilestones() [agentMilestoneCount]milestone {
	return [...]milestone{
		agentRegistered: {"registered", "Node exists", none(), none()},
		agentReady:      {"node-ready", "node Ready", figure{3.2, 3.7}, none()},
		agentDNS:        {"dns", "DNS answers", none(), none()},
		agentPodRuns:    {"first-pod", "first pod Running", exactly(5), none()},
	}
}

// agentRun is one start of an agent: when each milestone was reached after exec.
type agentRun struct {
	at    [agentMilestoneCount]time.Duration
	steps []step
}

// agentProbe observes one start of an agent, with the server's API.
type agentProbe struct {
	agent   *node
	name    string
	started time.Time // exec
	client  kubernetes.Interface
	run     agentRun
}

// podOn names the pod that is created for a node.
func podOn(node string) string { return "on-" + node }

// probeAgent returns when all milestones are reached:
//
//   - the Node exists
//   - it is Ready, by a heartbeat of this start
//   - the cluster's DNS address answers on the node
//   - a pod that was bound to the node when it existed is Running
func probeAgent(ctx context.Context, server, agent *node, name string) (agentRun, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not complete after %s", startLimit))
	defer cancel()
	started, err := startOf(agent.limpet)
	if err != nil {
		return agentRun{}, fmt.Errorf("start of limpet: %w", err)
	}
	client, err := server.client()
	if err != nil {
		return agentRun{}, err
	}
	p := &agentProbe{agent: agent, name: name, started: started, client: client}
	group, all := errgroup.WithContext(ctx)
	group.Go(func() error { return p.awaitNode(all) })
	group.Go(func() error { return p.awaitDNS(all) })
	if err := group.Wait(); err != nil {
		return agentRun{}, err
	}
	report, err := agent.status(ctx)
	if err != nil {
		return agentRun{}, err
	}
	p.run.steps = componentSteps(report, started)
	for i, m := range agentMilestones() {
		p.run.steps = append(p.run.steps, step{p.run.at[i], "→ " + m.title})
	}
	sortSteps(p.run.steps)
	return p.run, nil
}

// awaitNode follows the Node and then its pod.
func (p *agentProbe) awaitNode(ctx context.Context) error {
	err := p.await(ctx, "the node to register", func() (bool, error) {
		return watchOne(ctx, p.client.CoreV1().Nodes(), p.name, func(*corev1.Node) bool { p.reached(agentRegistered); return true })
	})
	if err != nil {
		return err
	}
	pods := p.client.CoreV1().Pods(metav1.NamespaceDefault)
	pod := barePod(podOn(p.name))
	pod.Spec.NodeName = p.name
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return p.await(ctx, "the node to be Ready", func() (bool, error) {
			return watchOne(ctx, p.client.CoreV1().Nodes(), p.name, func(n *corev1.Node) bool {
				if notReady(n, p.started.Truncate(time.Second)) != "" {
					return false
				}
				p.reached(agentReady)
				return true
			})
		})
	})
	group.Go(func() error {
		return p.await(ctx, "the pod to be Running", func() (bool, error) {
			return watchOne(ctx, pods, pod.Name, func(pod *corev1.Pod) bool {
				if pod.Status.Phase != corev1.PodRunning {
					return false
				}
				p.reached(agentPodRuns)
				return true
			})
		})
	})
	return group.Wait()
}

func (p *agentProbe) awaitDNS(ctx context.Context) error {
	at, err := poll(ctx, "DNS", dnsAtOnce, p.agent.askDNS)
	p.run.at[agentDNS] = at.Sub(p.started)
	return err
}

// reached records a milestone; each has one goroutine that does.
func (p *agentProbe) reached(milestone int) { p.run.at[milestone] = time.Since(p.started) }

func (p *agentProbe) await(ctx context.Context, what string, try func() (bool, error)) error {
	return awaitUnlessEnded(ctx, what, p.agent.ended, try)
}

func agentTimes(runs []agentRun, milestone int) []float64 {
	values := make([]float64, len(runs))
	for i, run := range runs {
		values[i] = seconds(run.at[milestone])
	}
	return values
}

// printAgentSteps prints the run whose pod ran at the median time.
func printAgentSteps(r *report, title string, runs []agentRun) {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b agentRun) int {
		return cmp.Compare(a.at[agentPodRuns], b.at[agentPodRuns])
	})
	printStepTable(r, title, sorted[(len(sorted)-1)/2].steps)
}
