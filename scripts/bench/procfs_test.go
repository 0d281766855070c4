package main

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	// Fields 14, 15 and 22 count; the name holds what separates fields.
	line := "42 (a (b) c) S 1 42 42 0 -1 4194560 9 8 7 6 150 50 3 2 20 0 30 0 12345 999 1 2"
	got, err := parseStat([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	want := processStat{name: "a (b) c", cpu: 2 * time.Second, start: 123450 * time.Millisecond}
	if got != want {
		t.Errorf("parseStat = %+v, want %+v", got, want)
	}
	for _, bad := range []string{"", "42 a S 1", "42 (a) S 1 42", strings.Replace(line, "12345", "x", 1)} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) has no error", bad)
		}
	}
}

func TestKeyed(t *testing.T) {
	t.Parallel()
	data := []byte("55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:    900 kB\nPss:              420 kB\nPss_Anon:         80 kB\nwchar: 17\n")
	for _, tt := range []struct {
		key  string
		want uint64
		ok   bool
	}{{"Pss", 420, true}, {"Pss_Anon", 80, true}, {"wchar", 17, true}, {"Anonymous", 0, false}} {
		if got, ok := keyed(data, tt.key); got != tt.want || ok != tt.ok {
			t.Errorf("keyed(%q) = %d, %t, want %d, %t", tt.key, got, ok, tt.want, tt.ok)
		}
	}
}

// The kernel's own files of this process have to be understood.
func TestOwnProcess(t *testing.T) {
	t.Parallel()
	pid := os.Getpid()
	started, err := startOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(started); age < 0 || age > time.Hour {
		t.Errorf("this process is %s old", age)
	}
	m, err := readMemory(pid)
	if err != nil {
		t.Fatal(err)
	}
	if m.anonymous == 0 || m.pss < m.anonymous/2 {
		t.Errorf("memory is %+v", m)
	}
	switches, err := readSwitches(pid)
	if err != nil {
		t.Fatal(err)
	}
	if len(switches) == 0 || switchesBetween(nil, switches) == 0 {
		t.Errorf("switches are %v", switches)
	}
}

func TestSwitchesBetween(t *testing.T) {
	t.Parallel()
	before := map[string]uint64{"1": 10, "gone": 99}
	after := map[string]uint64{"1": 15, "new": 3}
	if got := switchesBetween(before, after); got != 8 {
		t.Errorf("switchesBetween = %d, want 8", got)
	}
}

func TestParseCPUStat(t *testing.T) {
	t.Parallel()
	got, err := parseCPUStat([]byte("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n"))
	if err != nil || got != 2500*time.Millisecond {
		t.Errorf("parseCPUStat = %s, %v", got, err)
	}
	if _, err := parseCPUStat([]byte("user_usec 1\n")); err == nil {
		t.Error("no error without usage_usec")
	}
}

func TestSumMemory(t *testing.T) {
	t.Parallel()
	f := sumMemory([]process{
		{name: "limpet", memory: memory{100, 50}},
		{name: "containerd-shim", memory: memory{10, 5}},
		{name: "containerd-shim", memory: memory{10, 5}},
		{name: "pause", memory: memory{1, 1}},
		{name: "sleep", memory: memory{1000, 1000}}, // a pod's own
	})
	if got, want := f.all(), (memory{121, 61}); got != want {
		t.Errorf("all = %+v, want %+v", got, want)
	}
	if f.shims != (memory{20, 10}) {
		t.Errorf("shims = %+v", f.shims)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	begin := counters{at: time.Unix(100, 0), cpu: time.Second, written: written{device: 1000}, switches: map[string]uint64{"1": 7}}
	end := counters{at: time.Unix(110, 0), cpu: 2 * time.Second, nodeCPU: 3 * time.Second, written: written{6000, 20000}, switches: map[string]uint64{"1": 107}}
	want := usageRates{cpu: 10, nodeCPU: 30, device: 500, calls: 2000, switches: 10}
	if got := rates(begin, end); got != want {
		t.Errorf("rates = %+v, want %+v", got, want)
	}
}
