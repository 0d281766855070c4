package snapshot

import (
	"bufio"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// restoreForever names the snapshots that the child restores in turn, and the
// database.
const restoreForever = "TEST_RESTORE_FOREVER"

// TestKilled kills a process that saves and restores, at any moment: the
// database is always one of the two, complete, and its revisions only grow.
func TestKilled(t *testing.T) {
	t.Parallel()
	if args := os.Getenv(restoreForever); args != "" {
		runForever(t, strings.Split(args, "|"))
	}
	dir := t.TempDir()
	one, two := mustSave(t, newLog(t, 100), dir, SaveOptions{}), mustSave(t, newLog(t, 900), dir, SaveOptions{})
	db := filepath.Join(t.TempDir(), "state.db")
	if _, err := Restore(t.Context(), one.Path, db, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	for range 8 {
		killWhileRestoring(t, strings.Join([]string{one.Path, two.Path, db, dir}, "|"))
		log := openLog(t, db)
		if n := len(log.keys(t)); n != 100 && n != 900 {
			t.Fatalf("%d keys", n)
		}
		if log.rev <= last {
			t.Fatalf("revision %d after %d", log.rev, last)
		}
		last = log.rev
		log.close(t)
	}
	info := mustSave(t, newLog(t, 1), dir, SaveOptions{}) // and cleans up
	for _, n := range namesOf(t, dir) {
		if n == lockName {
			continue
		}
		if _, err := Verify(t.Context(), filepath.Join(dir, n), ""); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(info.Path); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(db + ".*")
	if err != nil || len(left) > 2*3+2 { // two databases aside, the lock and the floor
		t.Errorf("left %q, %v", left, err)
	}
}

func killWhileRestoring(t *testing.T, args string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self, "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), restoreForever+"="+args)
	out, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "restored" {
		t.Log(lines.Text())
	}
	time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // any moment will do
	if err := child.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = child.Wait() // that it was killed
}

func runForever(t *testing.T, args []string) {
	db, dir := args[2], args[3]
	for i := 0; ; i++ {
		if _, err := Restore(t.Context(), args[i%2], db, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("restored\n")
		log, _, err := sqlog.Open(t.Context(), sqlog.Options{Path: db})
		if err != nil {
			t.Fatal(err)
		}
		if i%4 == 3 {
			mustSave(t, log, dir, SaveOptions{})
		}
		if err := log.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
