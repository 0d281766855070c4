package sqlog

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// The benchmarks write to SQLOG_BENCH_DIR if it is set, so that they can run on
// the storage in question.
func benchOptions(b *testing.B) Options {
	b.Helper()
	dir, err := os.MkdirTemp(os.Getenv("SQLOG_BENCH_DIR"), "sqlog-bench-*")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return Options{Path: filepath.Join(dir, "state.db")}
}

// BenchmarkCommit prints commits a second, and the bytes that SQLite writes to
// the WAL for each. BenchmarkFsync is what the disk allows.
func BenchmarkCommit(b *testing.B) {
	for _, records := range []int{1, 16} {
		for _, size := range []int{600, 1024} {
			b.Run(fmt.Sprintf("records=%d/value=%d", records, size), func(b *testing.B) {
				l, _ := mustOpen(b, benchOptions(b))
				w := workload{size: size, keys: 2000}
				benchCommits(b, l, func() []Record { return w.next(records) })
			})
		}
	}
}

// BenchmarkPageSize compares page sizes by what reaches the device: pages in
// the WAL and in the database, as the kernel counts dirtied memory (4 KiB at a
// time, like a file system's blocks).
func BenchmarkPageSize(b *testing.B) {
	for _, load := range []struct {
		name string
		w    workload
	}{
		{"600B", workload{size: 600, keys: 2000}},
		{"1KiB", workload{size: 1024, keys: 2000}},
		{"3KiB", workload{size: 3072, keys: 2000}},
		{"leases", workload{size: 450, keys: 10}}, // nodes' and components' Leases: few keys, small values
	} {
		for _, page := range []int{512, 1024, 2048, 4096} {
			b.Run(fmt.Sprintf("%s/page=%d", load.name, page), func(b *testing.B) {
				o := benchOptions(b)
				o.PageSize = page
				l, _ := mustOpen(b, o)
				w, compacted, n := load.w, int64(0), 0
				benchCommits(b, l, func() []Record {
					if n++; n%500 == 0 { // as the API server does, if more often
						if err := l.Commit(b.Context(), Batch{Compacted: max(w.rev-500, 1)}); err != nil {
							b.Fatal(err)
						}
						compacted = w.rev
					}
					if n%50 == 0 && compacted > 0 {
						if _, err := l.Sweep(b.Context(), 100); err != nil {
							b.Fatal(err)
						}
					}
					return w.next(1)
				})
				b.ReportMetric(float64(l.Stats().FileBytes)/1e6, "MB-file")
			})
		}
	}
}

func benchCommits(b *testing.B, l *Log, next func() []Record) {
	b.Helper()
	b.ReportAllocs()
	pages, written := l.w.pages, writeBytes(b)
	b.ResetTimer()
	for range b.N {
		mustCommit(b, l, next()...)
	}
	b.StopTimer()
	pages = l.w.pages - pages
	if err := l.Checkpoint(b.Context(), true); err != nil {
		b.Fatal(err)
	}
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "commits/s")
	b.ReportMetric(float64(pages)*float64(l.wal.frame)/n, "WAL-B/commit")
	b.ReportMetric(float64(writeBytes(b)-written)/n, "device-B/commit")
}

// workload updates keys in turn.
type workload struct {
	size, keys int
	rev        int64
	last       []Record
}

func (w *workload) next(n int) []Record {
	if w.last == nil {
		w.last = make([]Record, w.keys)
	}
	recs := make([]Record, n)
	for i := range recs {
		w.rev++
		k := int(w.rev*7919) % w.keys
		old := w.last[k]
		recs[i] = Record{ID: ID(w.rev, 0), Prev: old.ID, Key: fmt.Sprintf("/registry/pods/default/app-%05d-xyzab", k),
			CreateRevision: max(old.CreateRevision, 1), Version: old.Version + 1, Value: fill10(w.rev, w.size)}
		w.last[k] = recs[i]
		w.last[k].Value = nil
	}
	return recs
}

func writeBytes(b *testing.B) int64 {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if s, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// BenchmarkFsync is the floor: one page appended and synced.
func BenchmarkFsync(b *testing.B) {
	f, err := os.Create(filepath.Join(filepath.Dir(benchOptions(b).Path), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, DefaultPageSize)
	for range b.N {
		if _, err := f.Write(page); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWhole measures what reads or copies everything, per 100 MB.
func BenchmarkWhole(b *testing.B) {
	o := benchOptions(b)
	l, _ := mustOpen(b, o)
	w := workload{size: 1500, keys: 20000}
	for range 600 {
		mustCommit(b, l, w.next(100)...)
	}
	if err := l.Checkpoint(b.Context(), true); err != nil {
		b.Fatal(err)
	}
	per100MB := float64(l.Stats().FileBytes) / 100e6
	report := func(b *testing.B) {
		b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/per100MB*1000, "ms/100MB")
	}
	b.Run("quick_check", func(b *testing.B) {
		for range b.N {
			if err := QuickCheck(b.Context(), l.r.conn); err != nil {
				b.Fatal(err)
			}
		}
		report(b)
	})
	b.Run("load", func(b *testing.B) {
		for range b.N {
			if err := l.Load(b.Context(), 8<<10, func(Record) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
		report(b)
	})
	b.Run("backup", func(b *testing.B) {
		for i := range b.N {
			path := o.Path + ".copy" + strconv.Itoa(i)
			if err := l.Backup(b.Context(), path); err != nil {
				b.Fatal(err)
			}
			_ = os.Remove(path)
		}
		report(b)
	})
	b.Run("records-of-1000", func(b *testing.B) {
		ids := make([]int64, 1000)
		for i := range ids {
			ids[i] = ID(int64(i*50+1), 0)
		}
		for range b.N {
			if _, err := l.Records(b.Context(), ids); err != nil {
				b.Fatal(err)
			}
		}
	})
}
