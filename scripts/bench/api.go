package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// apiBench measures the API from one and from 16 clients.
type apiBench struct {
	objects int
	rounds  int
	pods    int
	lists   int
}

func (b *apiBench) flags(fs *flag.FlagSet) {
	fs.IntVar(&b.objects, "objects", 5000, "ConfigMaps of 1 KiB; a fifth of the operations is done by one client, the rest by 16")
	fs.IntVar(&b.pods, "pods", 30, "pods of the Deployment")
	fs.IntVar(&b.rounds, "rounds", 3, "times that the Deployment comes and goes")
	fs.IntVar(&b.lists, "lists", 20, "lists of each kind")
}

// benchNamespace keeps the objects of the benchmark apart.
const benchNamespace = "bench"

// manyClients is what "16 clients" means.
const manyClients = 16

func (b *apiBench) run(ctx context.Context, c *cluster, r *report) error {
	if b.objects < 10 || b.rounds < 1 || b.lists < 1 || b.pods < 1 {
		return errors.New("-objects must be at least 10; -rounds, -lists and -pods at least 1")
	}
	r.quiet()
	c.progress("starting a cluster")
	if err := c.up(ctx); err != nil {
		return err
	}
	n, err := c.node(ctx)
	if err != nil {
		return err
	}
	if _, err := probeStart(ctx, n); err != nil {
		return err
	}
	s, err := n.status(ctx)
	if err != nil {
		return err
	}
	clients, err := n.clients(manyClients)
	if err != nil {
		return err
	}
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchNamespace}}
	if _, err := clients[0].CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create namespace: %w", err)
	}
	r.describe("API: ConfigMaps of 1 KiB, protobuf, no compression, no client-side limit; and a Deployment", s)
	if err := b.deployments(ctx, c, r, clients[0]); err != nil {
		return err
	}
	m := &apiMeasurement{report: r, progress: c.progress, clients: clients, objects: b.objects, lists: b.lists}
	if err := m.run(ctx); err != nil {
		return err
	}
	r.finish()
	return nil
}

// deployments comes first, while the cluster is as quiet as its users'.
func (b *apiBench) deployments(ctx context.Context, c *cluster, r *report, client kubernetes.Interface) error {
	var ready, gone []float64
	for i := range b.rounds {
		c.progress("deployment of %d pods, %d of %d", b.pods, i+1, b.rounds)
		round, err := comeAndGo(ctx, client, fmt.Sprintf("web-%d", i), b.pods)
		if err != nil {
			return err
		}
		ready, gone = append(ready, seconds(round.ready)), append(gone, seconds(round.gone))
		if !sleep(ctx, settle) {
			return ctx.Err()
		}
	}
	row := func(title, name string, values []float64, peer figure) []string {
		v := median(values)
		r.add("api.deployment."+name, v, "s")
		return []string{title, fmt.Sprintf("%.2f (%.2f–%.2f)", v, slices.Min(values), slices.Max(values)), peer.String(), peer.ratio(v)}
	}
	peerReady, peerGone := exactly(5.4), figure{3.6, 4.2}
	if b.pods != 30 {
		peerReady, peerGone = none(), none()
	}
	r.say("")
	r.table([]string{fmt.Sprintf("DEPLOYMENT OF %d PODS, MEDIAN OF %d", b.pods, b.rounds), "SECONDS", "K3S*", "RATIO"}, [][]string{
		row("created → all Ready", "ready", ready, peerReady),
		row("deleted → all gone", "gone", gone, peerGone),
	})
	return nil
}
