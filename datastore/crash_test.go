package datastore

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/sqlog"
)

// crashRounds, in the environment, is how often TestCrash kills; the default is
// 200, and 20 with -short.
const crashRounds = "LIMPET_TEST_CRASH_ROUNDS"

func versionsOf(c engine.Change) []*engine.Version { return []*engine.Version{c.Cur} }

// TestCrash kills a process that runs a store under load, again and again, and
// compares what is in the file with what the process was told and had told.
//
// The revisions order all changes, so linearizability needs no search: each
// answer names its place, and the check is that the places agree with the log
// and with the order in which calls began and ended.
func TestCrash(t *testing.T) {
	t.Parallel()
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	if s := os.Getenv(crashRounds); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s: %v", crashRounds, err)
		}
	}
	for lane := range 2 { // on their own files
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			c := &crasher{T: t, dir: t.TempDir(), rand: rand.New(rand.NewPCG(uint64(lane), 9)), leases: map[int64]bool{}}
			for i := range (rounds + 1) / 2 {
				c.round(uint64(lane*1_000_000 + i + 1))
				if t.Failed() {
					t.Fatalf("round %d", i)
				}
			}
			t.Logf("%d kills, %d before the store was open; %d calls answered, %d cut off of which %d took effect, %d events",
				c.kills, c.early, c.answered, c.open, c.effective, c.events)
		})
	}
}

type crasher struct {
	*testing.T
	dir    string
	rand   *rand.Rand
	last   int64          // the highest revision that anybody has seen
	before []sqlog.Record // what was there when the round began
	leases map[int64]bool // those whose grant or end is known

	kills, early, answered, open, effective, events int
}

// round runs a child, kills it, and looks at what it has left.
func (c *crasher) round(seed uint64) {
	lines := c.run(seed)
	records, leases := c.inspect()
	if len(lines) == 0 {
		c.early++
		return // nothing was promised; the next round begins where this one did
	}
	h := newHistory(c, lines, records, seed)
	h.check()
	h.checkLeases(leases)
	c.before = records
}

// run lets a child work for a while and returns what it told.
func (c *crasher) run(seed uint64) (lines []line) {
	r, w, err := os.Pipe()
	if err != nil {
		c.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), crashDir+"="+c.dir, fmt.Sprintf("%s=%d", crashSeed, seed))
	cmd.ExtraFiles = []*os.File{w}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	_ = w.Close()
	kill := func(most time.Duration) {
		time.AfterFunc(time.Duration(c.rand.Int64N(int64(most))), func() { _ = cmd.Process.Kill() })
	}
	early := c.rand.IntN(8) == 0
	if early {
		kill(200 * time.Millisecond) // while it starts, perhaps
	}
	in := bufio.NewScanner(r)
	for in.Scan() {
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			break // cut off
		}
		if l.Kind == "opened" && !early {
			kill(50 * time.Millisecond)
		}
		lines = append(lines, l)
	}
	_ = cmd.Wait()
	c.kills++
	if code := cmd.ProcessState.ExitCode(); code != -1 {
		c.Fatalf("the child ended by itself with %d:\n%s", code, output.String())
	}
	return lines
}

// inspect reads a copy of what is in the file: the next child shall find it as
// the kill has left it.
func (c *crasher) inspect() ([]sqlog.Record, map[int64]int64) {
	path := filepath.Join(c.dir, "state.db")
	if _, err := os.Stat(path); err != nil {
		return nil, nil // killed before it was made
	}
	copied := filepath.Join(c.TempDir(), "state.db")
	copyDatabase(c, path, copied)
	defer func() { _ = os.RemoveAll(filepath.Dir(copied)) }()
	return readAll(c, copied)
}

func readAll(t testing.TB, path string) (records []sqlog.Record, leases map[int64]int64) {
	t.Helper()
	ctx := context.Background()
	log, _, err := sqlog.Open(ctx, sqlog.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close(ctx) }()
	err = log.Load(ctx, 1<<20, func(r sqlog.Record) error {
		r.Value = slices.Clone(r.Value)
		records = append(records, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if leases, err = log.Leases(ctx); err != nil {
		t.Fatal(err)
	}
	return records, leases
}
