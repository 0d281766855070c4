package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/limpetio/limpet/datastore/snapshot"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/status"
)

// snapshots takes snapshots of the running datastore: by schedule, and when
// `limpet snapshot save` asks for one.
type snapshots struct {
	config    config.Snapshots
	node      string
	datastore *datastore
	timing    snapshot.Timing
	bucket    *snapshot.Bucket // nil without one
	log       *slog.Logger

	scheduler atomic.Pointer[snapshot.Scheduler]
}

// newSnapshots changes nothing. It fails on a schedule or a bucket that cannot be.
func newSnapshots(cfg config.Server, d *datastore, log *slog.Logger) (*snapshots, error) {
	s := &snapshots{config: cfg.Snapshots, node: cfg.NodeName, datastore: d, log: log}
	var err error
	if cfg.Snapshots.Scheduled() {
		if s.timing, err = snapshot.ParseSchedule(cfg.Snapshots.Schedule); err != nil {
			return nil, err
		}
	}
	if cfg.Snapshots.S3 {
		if s.bucket, err = snapshot.OpenBucket(cfg.Snapshots.Bucket); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *snapshots) Name() string { return "snapshots" }

func (s *snapshots) Run(ctx context.Context, ready func()) error {
	open := s.datastore.open.Load()
	if open == nil {
		return fmt.Errorf("the datastore is not open")
	}
	scheduler := snapshot.NewScheduler(snapshot.SchedulerOptions{
		Source: open.Log(), Dir: s.config.Dir, Node: s.node, Timing: s.timing, Retention: s.config.Retention,
		Bucket: s.bucket, Revision: func() int64 { return open.State().Revision }, Logger: s.log,
	})
	metrics := snapshotMetrics{scheduler}
	if err := legacyregistry.Registerer().Register(metrics); err != nil {
		return fmt.Errorf("register metrics of snapshots: %w", err)
	}
	defer legacyregistry.Registerer().Unregister(metrics)
	defer s.scheduler.Store(nil)
	s.scheduler.Store(scheduler)
	if s.config.Scheduled() {
		return scheduler.Run(ctx, ready)
	}
	ready()
	<-ctx.Done()
	return nil
}

// ServeHTTP takes a snapshot for `limpet snapshot save`, and answers with its
// snapshot.Info.
func (s *snapshots) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scheduler := s.scheduler.Load()
	if scheduler == nil {
		http.Error(w, "the datastore is not open", http.StatusServiceUnavailable)
		return
	}
	reason := snapshot.Reason(r.URL.Query().Get("reason"))
	if reason != snapshot.Manual && reason != snapshot.Upgrade { // the schedule's are its own
		http.Error(w, fmt.Sprintf("unknown reason %q", reason), http.StatusBadRequest)
		return
	}
	info, err := scheduler.Take(r.Context(), reason)
	answer := status.Snapshot{Info: info}
	if err != nil {
		s.log.Warn("a snapshot that was asked for failed", "error", err)
		answer.Error = err.Error()
		w.WriteHeader(http.StatusInternalServerError)
	}
	_ = json.NewEncoder(w).Encode(answer) // the client has gone: nobody to tell
}

// report is the datastore's part of `limpet status`.
func (s *snapshots) report() *status.Datastore {
	open := s.datastore.open.Load()
	if open == nil {
		return nil
	}
	state, files := open.State(), open.Log().Stats()
	d := &status.Datastore{
		Keys: state.Len(), Revision: state.Revision, FileBytes: files.FileBytes, WALBytes: files.WALBytes,
		Clean: open.Opened().Clean,
	}
	if err := open.Failing(); err != nil {
		d.Error = err.Error()
	}
	if r := s.datastore.recovered.Load(); r != nil {
		d.Recovered = r.String()
	}
	if scheduler := s.scheduler.Load(); scheduler != nil {
		st := scheduler.Status()
		d.Snapshots = &st
	}
	return d
}

// recoveryReport tells the cluster that its datastore is an older one, by an
// Event about the node.
func recoveryReport(d *datastore, loopback func() *rest.Config) component.Component {
	return component.Func("recovery-report", func(ctx context.Context, ready func()) error {
		defer ready()
		r := d.recovered.Load()
		if r == nil {
			return nil
		}
		client, err := kubernetes.NewForConfig(loopback())
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		now := metav1.NewTime(r.At)
		_, err = client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{GenerateName: d.node + "-datastore-", Namespace: metav1.NamespaceDefault},
			InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: d.node},
			Reason:         "DatastoreRecovered", Message: shorten(r.String(), 1024), Type: corev1.EventTypeWarning,
			Source:         corev1.EventSource{Component: "limpet", Host: d.node},
			FirstTimestamp: now, LastTimestamp: now, Count: 1,
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("report the recovery of the datastore: %w", err)
		}
		return nil
	})
}

// shorten cuts a text to what fits into an Event.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most-3] + "..."
}

// snapshotMetrics reads a scheduler's status when it is asked to.
type snapshotMetrics struct{ scheduler *snapshot.Scheduler }

func (m snapshotMetrics) descs() (age, count, bytes, failed *prometheus.Desc) {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("limpet_datastore_snapshot_"+name, help, nil, nil)
	}
	return desc("age_seconds", "Time since the newest snapshot held all there was; absent if there is none."),
		desc("count", "Snapshots in the directory."),
		desc("bytes", "Their size."),
		desc("failures_total", "Snapshots that could not be taken.")
}

// Describe is prometheus.Collector's.
func (m snapshotMetrics) Describe(ch chan<- *prometheus.Desc) {
	age, count, bytes, failed := m.descs()
	for _, d := range []*prometheus.Desc{age, count, bytes, failed} {
		ch <- d
	}
}

// Collect is prometheus.Collector's.
func (m snapshotMetrics) Collect(ch chan<- prometheus.Metric) {
	age, count, bytes, failed := m.descs()
	s := m.scheduler.Status()
	if old, ok := s.Age(time.Now()); ok {
		ch <- prometheus.MustNewConstMetric(age, prometheus.GaugeValue, old.Seconds())
	}
	ch <- prometheus.MustNewConstMetric(count, prometheus.GaugeValue, float64(s.Count))
	ch <- prometheus.MustNewConstMetric(bytes, prometheus.GaugeValue, float64(s.Bytes))
	ch <- prometheus.MustNewConstMetric(failed, prometheus.CounterValue, float64(s.Failed))
}
