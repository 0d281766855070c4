package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// apiMeasurement is one pass over all operations.
type apiMeasurement struct {
	report   *report
	progress func(format string, args ...any)
	clients  []kubernetes.Interface
	objects  int
	lists    int

	rows [][]string
}

// peerOps is k3s's operations per second with one and with 16 clients.
func peerOps(verb string, clients int) figure {
	alone, many := none(), none()
	switch verb {
	case "create":
		alone, many = figure{320, 365}, figure{750, 870}
	case "get":
		alone, many = figure{580, 750}, figure{1590, 2070}
	case "patch":
		alone, many = figure{270, 370}, exactly(740)
	case "delete":
		alone, many = figure{290, 300}, exactly(800)
	}
	if clients == manyClients {
		return many
	}
	return alone
}

func (m *apiMeasurement) run(ctx context.Context) error {
	verbs := []struct {
		name string
		do   func(configMaps, context.Context, int) error
	}{
		{"create", configMaps.create}, {"get", configMaps.get}, {"patch", configMaps.patch}, {"delete", configMaps.remove},
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	var lists [][]string
	for _, verb := range verbs {
		if verb.name == "delete" { // all objects are there until then
			var err error
			if lists, err = m.list(ctx); err != nil {
				return err
			}
		}
		if err := m.verb(ctx, verb.name, verb.do); err != nil {
			return err
		}
	}
	m.report.say("")
	m.report.table([]string{"OPERATION", "CLIENTS", "OP/S", "P50 MS", "P99 MS", "K3S* OP/S", "RATIO"}, m.rows)
	m.report.say("")
	m.report.table([]string{fmt.Sprintf("LIST OF %d", m.objects), "P50 MS", "P99 MS", "K3S* MS", "RATIO"}, lists)
	return m.watch(ctx)
}

func (m *apiMeasurement) on(client int) configMaps {
	return configMaps{m.clients[client].CoreV1().ConfigMaps(benchNamespace)}
}

// warmUp opens every client's connection and fills the caches of the first requests.
func (m *apiMeasurement) warmUp(ctx context.Context) error {
	for client := range m.clients {
		if err := errors.Join(m.on(client).create(ctx, 0), m.on(client).remove(ctx, 0)); err != nil {
			return fmt.Errorf("warm up: %w", err)
		}
	}
	return nil
}

// verb does one operation on every object: the first fifth by one client, the
// rest by 16.
func (m *apiMeasurement) verb(ctx context.Context, name string, do func(configMaps, context.Context, int) error) error {
	alone := m.objects / 5
	for _, part := range []struct{ clients, from, count int }{{1, 0, alone}, {manyClients, alone, m.objects - alone}} {
		m.progress("%s, clients: %d", name, part.clients)
		l, err := repeat(ctx, part.clients, part.count, func(ctx context.Context, client, i int) error {
			return do(m.on(client), ctx, part.from+i)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		key := fmt.Sprintf("api.%s.c%d", name, part.clients)
		m.report.add(key, l.perSecond(), "op/s")
		m.report.add(key+".p50", l.p50(), "ms")
		m.report.add(key+".p99", l.p99(), "ms")
		peer := peerOps(name, part.clients)
		m.rows = append(m.rows, []string{name, strconv.Itoa(part.clients), short(l.perSecond()), short(l.p50()), short(l.p99()),
			peer.String(), peer.ratio(l.perSecond())})
	}
	return nil
}

// list reads all objects in the three ways that clients do.
func (m *apiMeasurement) list(ctx context.Context) ([][]string, error) {
	var rows [][]string
	for _, kind := range []struct {
		name, title, version string
		limit                int64
		peer                 figure
	}{
		{"latest", "latest (consistent)", "", 0, none()},
		{"cached", "from the cache (resourceVersion=0)", "0", 0, figure{40, 71}},
		{"paged", "paged by 500", "", 500, exactly(96)},
	} {
		m.progress("list, %s", kind.title)
		l, err := repeat(ctx, 1, m.lists, func(ctx context.Context, client, _ int) error {
			return m.on(client).list(ctx, kind.version, kind.limit, m.objects)
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.name, err)
		}
		peer := kind.peer
		if m.objects != 5000 {
			peer = none()
		}
		m.report.add("api.list."+kind.name+".p50", l.p50(), "ms")
		m.report.add("api.list."+kind.name+".p99", l.p99(), "ms")
		rows = append(rows, []string{kind.title, short(l.p50()), short(l.p99()), peer.String(), peer.ratio(l.p50())})
	}
	return rows, nil
}

// The two loads under which the way from a create to a watcher is measured.
const (
	slowWrites = 200
	slowPause  = time.Second / 20
	fastWrites = 2000
)

// watch measures from the call of create until the event is with a watcher.
func (m *apiMeasurement) watch(ctx context.Context) error {
	var rows [][]string
	for _, load := range []struct {
		name, title    string
		clients, count int
		pause          time.Duration
		peer           figure
	}{
		{"slow", "20 writes per second", 1, slowWrites, slowPause, exactly(4.8)},
		{"fast", "16 clients write at full speed", manyClients, fastWrites, 0, exactly(18)},
	} {
		m.progress("watch, %s", load.title)
		l, err := m.createToWatch(ctx, load.clients, load.count, load.pause)
		if err != nil {
			return fmt.Errorf("watch, %s: %w", load.name, err)
		}
		m.report.add("api.watch."+load.name+".p50", l.p50(), "ms")
		m.report.add("api.watch."+load.name+".p99", l.p99(), "ms")
		rows = append(rows, []string{load.title, short(l.p50()), short(l.p99()), load.peer.String(), load.peer.ratio(l.p50())})
	}
	m.report.say("")
	m.report.table([]string{"CREATE → WATCH EVENT", "P50 MS", "P99 MS", "K3S* MS", "RATIO"}, rows)
	return nil
}

// createToWatch creates objects while one watcher notes when each arrives.
func (m *apiMeasurement) createToWatch(ctx context.Context, clients, count int, pause time.Duration) (latencies, error) {
	client, opts := m.on(0), metav1.ListOptions{LabelSelector: "app=bench"}
	w, err := client.Watch(ctx, opts)
	if err != nil {
		return latencies{}, err
	}
	defer w.Stop()
	arrived := make(chan error, 1)
	created, seen := make([]time.Time, count), make([]time.Time, count)
	go func() { arrived <- noteArrivals(w, seen) }()
	_, err = repeat(ctx, clients, count, func(ctx context.Context, client, i int) error {
		if pause > 0 && !sleep(ctx, pause) {
			return ctx.Err()
		}
		created[i] = time.Now()
		return m.on(client).create(ctx, i)
	})
	if err != nil {
		return latencies{}, err
	}
	if err := <-arrived; err != nil {
		return latencies{}, err
	}
	l := latencies{each: make([]time.Duration, count)}
	for i := range l.each {
		l.each[i] = seen[i].Sub(created[i])
	}
	return l, client.DeleteCollection(ctx, metav1.DeleteOptions{}, opts)
}

// noteArrivals returns when each of the numbered objects was seen to be added.
func noteArrivals(w watch.Interface, seen []time.Time) error {
	left := len(seen)
	for event := range w.ResultChan() {
		now := time.Now()
		object, ok := event.Object.(*corev1.ConfigMap)
		if event.Type != watch.Added || !ok {
			continue
		}
		var i int
		if _, err := fmt.Sscanf(object.Name, namePrefix+"%d", &i); err != nil || i >= len(seen) || !seen[i].IsZero() {
			continue
		}
		seen[i] = now
		if left--; left == 0 {
			return nil
		}
	}
	return fmt.Errorf("the watch has ended before %d events had come", left)
}
