package upgrade

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// box is a machine of which only files are real. It loses power at a moment.
type box struct {
	dataDir, installed string
	running            string // content of the binary that runs
	cut                func() // ends the guard
	left               int    // moments until then
}

const oldBinary, newBinary = "#!/bin/sh\necho old\n", "#!/bin/sh\necho new\n"

func newBox(t *testing.T, kind Kind) (*box, Journal) {
	t.Helper()
	data, bin := t.TempDir(), t.TempDir()
	b := &box{dataDir: data, installed: filepath.Join(bin, "limpet"), running: oldBinary}
	for file, text := range map[string]string{b.installed: oldBinary, stagedFile(data): newBinary, previousFile(data): oldBinary} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	j := testJournal(kind, false)
	j.Installed = b.installed
	var err error
	if j.From.SHA256, err = sumOf(t.Context(), b.installed); err != nil {
		t.Fatal(err)
	}
	if j.To.SHA256, err = sumOf(t.Context(), stagedFile(data)); err != nil {
		t.Fatal(err)
	}
	if err := j.save(data); err != nil {
		t.Fatal(err)
	}
	return b, j
}

// moment is one at which the power may fail.
func (b *box) moment() {
	if b.left--; b.left == 0 {
		b.cut()
	}
}

func (b *box) stop(context.Context) error {
	b.moment()
	b.running = ""
	b.moment()
	return nil
}

func (b *box) start(context.Context) error {
	b.moment()
	text, err := os.ReadFile(b.installed)
	b.running = string(text)
	b.moment()
	return err
}

func (b *box) pid(context.Context) (int, error) { return 1, nil }
func (b *box) ends(context.Context) int         { return 0 }

// guard follows the journal until its end or the power cut.
func (b *box) guard(t *testing.T, good bool, cutAfter int) (Journal, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b.cut, b.left = cancel, cutAfter
	g := &guard{dataDir: b.dataDir, log: slog.New(slog.DiscardHandler), control: b, healthy: func(context.Context, Journal, control) Event {
		b.moment()
		if b.running == newBinary && !good {
			return Event{Kind: Failed, Reason: "it is bad"}
		}
		return Event{Kind: Done}
	}}
	j, err := Load(b.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	if j, err = g.follow(ctx, j); err == nil {
		err = g.tidy(j)
	}
	return j, err
}

// TestGuardGoesOn cuts the guard off at every moment, and has another one go on.
func TestGuardGoesOn(t *testing.T) {
	t.Parallel()
	for _, good := range []bool{true, false} {
		for cutAfter := range 10 {
			t.Run(fmt.Sprintf("good %t, cut %d", good, cutAfter), func(t *testing.T) {
				t.Parallel()
				b, _ := newBox(t, KindUpgrade)
				j, err := b.guard(t, good, cutAfter)
				if err != nil {
					// What a cut in the middle of a copy leaves.
					if err := os.WriteFile(unfinished(b.installed), []byte("half"), 0o600); err != nil {
						t.Fatal(err)
					}
					b.running = "" // the machine boots
					if text, err := os.ReadFile(b.installed); err == nil {
						b.running = string(text)
					}
					if j, err = b.guard(t, good, 0); err != nil {
						t.Fatal(err)
					}
				}
				b.check(t, j, good)
			})
		}
	}
}

func (b *box) check(t *testing.T, j Journal, good bool) {
	t.Helper()
	want, phase := newBinary, Confirmed
	if !good {
		want, phase = oldBinary, RolledBack
	}
	text, err := os.ReadFile(b.installed)
	if err != nil || string(text) != want || b.running != want || j.Phase != phase {
		t.Errorf("installed %q, running %q, %v; %+v", text, b.running, err, j)
	}
	if info, err := os.Stat(b.installed); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	_, stagedErr := os.Stat(stagedDir(b.dataDir))
	_, keptErr := os.Stat(previousFile(b.dataDir))
	if !os.IsNotExist(stagedErr) || os.IsNotExist(keptErr) == good {
		t.Errorf("left: staged %v, previous %v", stagedErr, keptErr)
	}
	if entries, err := os.ReadDir(filepath.Dir(b.installed)); err != nil || len(entries) != 1 {
		t.Errorf("left beside the binary: %v, %v", entries, err)
	}
}

// TestDamagedStaging: bits that have flipped are never installed.
func TestDamagedStaging(t *testing.T) {
	t.Parallel()
	b, _ := newBox(t, KindUpgrade)
	if err := os.WriteFile(stagedFile(b.dataDir), []byte("flipped"), 0o755); err != nil {
		t.Fatal(err)
	}
	j, err := b.guard(t, true, 0)
	if err != nil || j.Phase != RolledBack || !strings.Contains(j.Reason, "the disk may be failing") || b.running != oldBinary {
		t.Errorf("%+v, %v, runs %q", j, err, b.running)
	}
}

// TestRollbackTwice: a rollback that came back keeps its binary for another attempt.
func TestRollbackTwice(t *testing.T) {
	t.Parallel()
	b, _ := newBox(t, KindRollback)
	j, err := b.guard(t, false, 0)
	if err != nil || j.Phase != RolledBack {
		t.Fatalf("%+v, %v", j, err)
	}
	way, file, err := wayBack(t.Context(), b.dataDir, true)
	if err != nil || way.Back.SHA256 != j.To.SHA256 || file != previousFile(b.dataDir) {
		t.Errorf("%+v, %s, %v", way, file, err)
	}
}

func TestWayBack(t *testing.T) {
	t.Parallel()
	if _, _, err := wayBack(t.Context(), t.TempDir(), true); code(err) != NothingToGoBackTo {
		t.Errorf("without an upgrade: %v", err)
	}
	b, _ := newBox(t, KindUpgrade)
	if _, _, err := wayBack(t.Context(), b.dataDir, true); code(err) != UnderWay {
		t.Errorf("in the middle of one: %v", err)
	}
	j, err := b.guard(t, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	if way, _, err := wayBack(t.Context(), b.dataDir, true); err != nil || way.Back != j.From || way.Now != j.To {
		t.Errorf("after one: %+v, %v", way, err)
	}
	if err := os.Remove(previousFile(b.dataDir)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := wayBack(t.Context(), b.dataDir, true); code(err) != NothingToGoBackTo {
		t.Errorf("without the binary: %v", err)
	}
}

func TestPlaceKeepsModeAndOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, dest := filepath.Join(dir, "src"), filepath.Join(dir, "sub", "dest")
	if err := os.Mkdir(filepath.Dir(dest), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, mode := range map[string]os.FileMode{src: 0o755, dest: 0o750} {
		if err := os.WriteFile(file, []byte(file), mode); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // again, as after a power cut
		if err := place(t.Context(), src, dest, true); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dest); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info, err)
	}
	if text, err := os.ReadFile(dest); err != nil || string(text) != src {
		t.Errorf("%q, %v", text, err)
	}
	// Without a difference it is a link: no space, and twice is as good as once.
	for range 2 {
		if err := place(t.Context(), src, dest, false); err != nil {
			t.Fatal(err)
		}
	}
	a, errA := os.Stat(src)
	b, errB := os.Stat(dest)
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		t.Error("not linked")
	}
}

func TestGuardServices(t *testing.T) {
	t.Parallel()
	u := unit(`/data/a "b" 100%/upgrade/previous`, `/data/a "b" 100%`)
	if want := `ExecStart="/data/a \"b\" 100%%/upgrade/previous" upgrade guard --data-dir "/data/a \"b\" 100%%"` + "\n"; !strings.Contains(u, want) {
		t.Errorf("%s lacks %s", u, want)
	}
	s := script("/data/it's/upgrade/previous", "/data/it's")
	if want := `  '/data/it'\''s/upgrade/previous' upgrade guard --detach --data-dir '/data/it'\''s'` + "\n"; !strings.Contains(s, want) {
		t.Errorf("%s lacks %s", s, want)
	}
}

func TestParseUnit(t *testing.T) {
	t.Parallel()
	for groups, want := range map[string]string{
		"0::/system.slice/limpet.service\n":                                                           "limpet",
		"0::/system.slice/edge.service/inner/x.service\n":                                             "edge",
		"12:cpu:/system.slice/cpu.service\n1:name=systemd:/system.slice/limpet-agent.service\n0::/\n": "limpet-agent",
		"0::/user.slice/user-0.slice/session-1.scope\n":                                               "",
		"": "",
	} {
		if got := parseUnit(groups); got != want {
			t.Errorf("%q: %q, want %q", groups, got, want)
		}
	}
}
