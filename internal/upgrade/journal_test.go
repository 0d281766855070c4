package upgrade

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"
)

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	if _, err := Load(data); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a journal: %v", err)
	}
	if _, ok, err := LoadIfAny(data); ok || err != nil {
		t.Fatalf("without a journal: %t, %v", ok, err)
	}
	if err := os.Mkdir(dir(data), 0o700); err != nil {
		t.Fatal(err)
	}
	want := testJournal(KindUpgrade, true).Next(Event{Kind: Done})
	if err := want.save(data); err != nil {
		t.Fatal(err)
	}
	got, err := Load(data)
	if err != nil || got.Phase != Switching || got.Step != StepSnapshot || got.Timeout != time.Minute {
		t.Fatalf("%+v, %v", got, err)
	}
	if info, err := os.Stat(journalFile(data)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Journal){
		"format":        func(j *Journal) { j.Format = 2 },
		"id":            func(j *Journal) { j.ID = "../x" },
		"kind":          func(j *Journal) { j.Kind = "upgrades" },
		"sum":           func(j *Journal) { j.To.SHA256 = "12" },
		"relative":      func(j *Journal) { j.Installed = "limpet" },
		"unclean":       func(j *Journal) { j.Installed = "/usr/../etc/passwd" },
		"root":          func(j *Journal) { j.Installed = "/" },
		"database":      func(j *Journal) { j.Database = "state.db" },
		"snapshot":      func(j *Journal) { j.Database, j.Snapshot = "", "/x" },
		"restore":       func(j *Journal) { j.Restore = "/x" },
		"timeout":       func(j *Journal) { j.Timeout = 0 },
		"attempts":      func(j *Journal) { j.Attempts = -1 },
		"no service":    func(j *Journal) { j.Service = Service{Manager: Systemd} },
		"option":        func(j *Journal) { j.Service = Service{Manager: Systemd, Name: "-x"} },
		"path":          func(j *Journal) { j.Service = Service{Manager: OpenRC, Name: "a/b"} },
		"manager":       func(j *Journal) { j.Service = Service{Manager: "runit", Name: "limpet"} },
		"phase":         func(j *Journal) { j.Phase = "going" },
		"step":          func(j *Journal) { j.Phase, j.Step = Watching, StepStop },
		"step of final": func(j *Journal) { j.Phase, j.Step = Confirmed, StepWatch },
		"step of agent": func(j *Journal) { j.Database, j.Phase, j.Step = "", Switching, StepSnapshot },
	} {
		j := testJournal(KindUpgrade, true)
		change(&j)
		data, err := j.render()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(data); err == nil {
			t.Errorf("%s: a guard would act upon %s", name, data)
		}
	}
	for _, text := range []string{"", "{", "null", "[]", "{}"} {
		if _, err := parse([]byte(text)); err == nil {
			t.Errorf("%q is taken for a journal", text)
		}
	}
}

// FuzzParse: whatever is accepted can be written, read again, and followed to an end.
func FuzzParse(f *testing.F) {
	for _, kind := range []Kind{KindUpgrade, KindRollback} {
		for j := testJournal(kind, true); ; j = j.Next(Event{Kind: Done, Snapshot: "/d/s"}) {
			data, err := j.render()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
			if j.Final() {
				break
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		j, err := parse(data)
		if err != nil {
			return
		}
		text, err := j.render()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parse(text); err != nil {
			t.Fatalf("what was written is not accepted: %v", err)
		}
		for range 20 {
			if j.Sentence() == "" {
				t.Fatal("nothing to say")
			}
			if j = j.Next(Event{Kind: Done, Snapshot: "/d/s"}); j.Final() {
				return
			}
		}
		t.Fatalf("no end: %+v", j)
	})
}

func TestOutcome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		phase  Phase
		unwell string
		code   Code
		text   string
	}{
		{Confirmed, "", 0, ""},
		{Abandoned, "", GivenUp, "before anything was changed: because"},
		{RolledBack, "", CameBack, "upgrade from v1 to v2 failed, and v1 is back: because"},
		{RolledBack, "no disk", CameUnwell, "v1 is not well either: no disk"},
		{Watching, "", StillGoes, "waiting for v2 to become healthy"},
	} {
		j := testJournal(KindUpgrade, false)
		j.From.Version, j.To.Version, j.Phase, j.Reason, j.Unwell = "v1", "v2", c.phase, "because", c.unwell
		err := j.Outcome()
		if c.code == 0 {
			if err != nil {
				t.Errorf("%s: %v", c.phase, err)
			}
			continue
		}
		e := (*Error)(nil)
		if !errors.As(err, &e) || e.Code != c.code || e.ExitCode() != int(c.code) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.phase, err)
		}
	}
}
