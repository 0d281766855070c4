package datastore

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// Metrics describes a store to Prometheus; it is a prometheus.Collector. What a
// store knows anyway is read when it is asked for.
type Metrics struct {
	store *Store

	commits    prometheus.Counter
	failures   prometheus.Counter
	requests   prometheus.Histogram
	changes    prometheus.Counter
	latency    prometheus.Histogram
	sweep      prometheus.Histogram
	valuesRead prometheus.Counter
	gauges     []gauge
}

type gauge struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*Store, sqlog.Stats) float64
}

const metricsPrefix = "limpet_datastore_"

func newMetrics() *Metrics {
	m := &Metrics{
		commits:  prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "commits_total", Help: "Transactions written to the disk."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "commit_failures_total", Help: "Transactions that failed: disk full, I/O error."}),
		changes:  prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "changes_total", Help: "Changes of keys."}),
		requests: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricsPrefix + "batch_requests", Help: "Requests that shared a transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 10)}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricsPrefix + "commit_seconds", Help: "Time of a transaction until it was on the disk.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}),
		sweep: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricsPrefix + "compaction_slice_seconds", Help: "Time of a slice of compaction; writers wait for it.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14)}),
		valuesRead: prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "values_read_total", Help: "Values read from the file since they were not in memory."}),
	}
	number := func(kind prometheus.ValueType, name, help string, read func(*Store, sqlog.Stats) float64) {
		m.gauges = append(m.gauges, gauge{prometheus.NewDesc(metricsPrefix+name, help, nil, nil), kind, read})
	}
	number(prometheus.GaugeValue, "keys", "Keys.", func(s *Store, _ sqlog.Stats) float64 { return float64(s.State().Len()) })
	number(prometheus.GaugeValue, "leases", "Leases.", func(s *Store, _ sqlog.Stats) float64 { return float64(len(s.State().Leases())) })
	number(prometheus.GaugeValue, "revision", "The current revision.", func(s *Store, _ sqlog.Stats) float64 { return float64(s.State().Revision) })
	number(prometheus.GaugeValue, "compacted_revision", "The revision before which there is no history.", func(s *Store, _ sqlog.Stats) float64 { return float64(s.State().Compacted) })
	number(prometheus.GaugeValue, "watchers", "Watchers.", func(s *Store, _ sqlog.Stats) float64 { return float64(s.Watchers()) })
	number(prometheus.GaugeValue, "wal_bytes", "Size of the write-ahead log.", func(_ *Store, files sqlog.Stats) float64 { return float64(files.WALBytes) })
	number(prometheus.GaugeValue, "file_bytes", "Size of the database file.", func(_ *Store, files sqlog.Stats) float64 { return float64(files.FileBytes) })
	number(prometheus.CounterValue, "checkpoints_total", "Copies of the write-ahead log into the database.", func(_ *Store, files sqlog.Stats) float64 { return float64(files.Checkpoints) })
	number(prometheus.GaugeValue, "cached_bytes", "Values in memory.", func(s *Store, _ sqlog.Stats) float64 { bytes, _ := s.cache.Size(); return float64(bytes) })
	return m
}

// Metrics is the store's collector.
func (s *Store) Metrics() *Metrics { return s.metrics }

// Watchers is the number of watchers.
func (s *Store) Watchers() int {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	return s.hub.watchers
}

func (m *Metrics) own() []prometheus.Collector {
	return []prometheus.Collector{m.commits, m.failures, m.requests, m.changes, m.latency, m.sweep, m.valuesRead}
}

// Describe is prometheus.Collector's.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.own() {
		c.Describe(ch)
	}
	for _, g := range m.gauges {
		ch <- g.desc
	}
}

// Collect is prometheus.Collector's.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.own() {
		c.Collect(ch)
	}
	files := m.store.log.Stats() // once for all of them: it reads
	for _, g := range m.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, g.kind, g.read(m.store, files))
	}
}

func (m *Metrics) committed(requests, changes int, took time.Duration, err error) {
	if err != nil {
		m.failures.Inc()
		return
	}
	m.commits.Inc()
	m.requests.Observe(float64(requests))
	m.changes.Add(float64(changes))
	m.latency.Observe(took.Seconds())
}
