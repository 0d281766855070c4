// Package upgrade replaces the installed limpet by another version, with a way
// back: the new one has to become healthy within a time, or the previous
// binary and, on a server, the data of before come back by themselves.
//
// What is going on is in a journal on disk. A process of its own, the guard,
// which is the binary of before, does one step after the other and notes each
// in the journal before and after. Whoever starts the guard again, after a
// power cut or a crash, has it repeat the step that was begun: every step can
// be repeated. What follows on what is decided by Journal.Next, without I/O:
//
//	             ┌───────────── forward ──────────────┐
//	staged ──▶ switching: snapshot, install, start ──▶ watching ──▶ confirmed
//	   │           │                                      │
//	   │ snapshot  │ failed                               │ not healthy in time, or
//	   │ failed    ▼                                      ▼ interrupted too often
//	   │       returning: stop, install, restore, start, watch ──▶ rolled-back
//	   └──▶ abandoned
//
// A rollback is the same, with the two binaries exchanged and the snapshot of
// before the upgrade restored on the way forward.
package upgrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// Journal is the record of one upgrade or rollback, the newest one.
type Journal struct {
	Format int    `json:"format"` // 1
	ID     string `json:"id"`
	Kind   Kind   `json:"kind"`
	// RequestedBy is who wanted it, in words; empty: somebody at a terminal.
	RequestedBy string `json:"requestedBy,omitempty"`
	Node        string `json:"node,omitempty"`
	From        Build  `json:"from"`
	To          Build  `json:"to"`

	// Installed is the path of the binary that is replaced.
	Installed string  `json:"installed"`
	Service   Service `json:"service"`
	// Database is the datastore's file; empty on an agent, which has none.
	Database    string `json:"database,omitempty"`
	SnapshotDir string `json:"snapshotDir,omitempty"`
	// Snapshot is the one of before, once it has been taken.
	Snapshot string `json:"snapshot,omitempty"`
	// Restore is the snapshot that is restored on the way forward: of a rollback.
	Restore string `json:"restore,omitempty"`
	// Timeout is how long the new binary may take to become healthy, in
	// nanoseconds of running time.
	Timeout time.Duration `json:"timeout"`
	// Ignore are the components that were not well before, and need not be after.
	Ignore []string `json:"ignore,omitempty"`

	Phase Phase `json:"phase"`
	Step  Step  `json:"step,omitempty"`
	// Touched: the new binary may have run, and so have changed the data.
	Touched bool `json:"touched,omitempty"`
	// Attempts is how often the guard was started again on the way forward.
	Attempts int `json:"attempts,omitempty"`
	// Reason is why it goes back, went back, or was abandoned; on the way forward
	// after a failure that is tried again, what failed.
	Reason string `json:"reason,omitempty"`
	// Unwell is why the previous version, which is back, is not healthy.
	Unwell string `json:"unwell,omitempty"`

	// The clock may jump in between: nothing is decided by these.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
}

// Kind is what a journal is about.
type Kind string

// The kinds.
const (
	KindUpgrade  Kind = "upgrade"
	KindRollback Kind = "rollback"
)

// Build is a binary.
type Build struct {
	Version    string `json:"version"`
	Kubernetes string `json:"kubernetes,omitempty"`
	SHA256     string `json:"sha256"`
}

// Service is how limpet is started and stopped.
type Service struct {
	Manager Manager `json:"manager"`
	// Name is limpet's service; empty without a manager.
	Name string `json:"name,omitempty"`
}

// Manager is a service manager.
type Manager string

// The managers. None: limpet was started by hand, or by something unknown.
const (
	Systemd Manager = "systemd"
	OpenRC  Manager = "openrc"
	None    Manager = "none"
)

// Phase is how far an operation has come.
type Phase string

// The phases; the last three are final.
const (
	Staged    Phase = "staged"    // all is on disk, nothing has changed yet
	Switching Phase = "switching" // on the way forward
	Watching  Phase = "watching"  // the new binary was started
	Returning Phase = "returning" // on the way back

	Confirmed  Phase = "confirmed"   // the new binary is healthy
	RolledBack Phase = "rolled-back" // the binary of before runs again, with the data of before
	Abandoned  Phase = "abandoned"   // it ended before anything was changed
)

// Step is what the guard is doing.
type Step string

// The steps.
const (
	StepSnapshot Step = "snapshot"
	StepStop     Step = "stop"
	StepInstall  Step = "install"
	StepRestore  Step = "restore"
	StepStart    Step = "start" // or a restart, if limpet runs
	StepWatch    Step = "watch"
)

const journalFormat = 1

// Final reports whether the operation has ended.
func (j Journal) Final() bool {
	return j.Phase == Confirmed || j.Phase == RolledBack || j.Phase == Abandoned
}

// Sentence says in one line what the journal is about and how far it is.
func (j Journal) Sentence() string {
	what := fmt.Sprintf("%s from %s to %s", j.Kind, j.From.Version, j.To.Version)
	if j.RequestedBy != "" {
		what += " (" + j.RequestedBy + ")"
	}
	because := ""
	if j.Reason != "" {
		because = ": " + j.Reason
	}
	switch j.Phase {
	case Confirmed:
		return what + " succeeded"
	case RolledBack:
		if j.Unwell != "" {
			because += "; " + j.From.Version + " is not well either: " + j.Unwell
		}
		return what + " failed, and " + j.From.Version + " is back" + because
	case Abandoned:
		return what + " was given up before anything was changed" + because
	case Returning:
		return what + " failed, going back" + because
	case Watching:
		return what + " is under way: waiting for " + j.To.Version + " to become healthy"
	}
	return what + " is under way"
}

// dir is where all files of upgrades are.
func dir(dataDir string) string         { return filepath.Join(dataDir, "upgrade") }
func journalFile(dataDir string) string { return filepath.Join(dir(dataDir), "journal.json") }

// Load reads the journal of the newest operation; fs.ErrNotExist if there has
// never been one.
func Load(dataDir string) (Journal, error) {
	data, err := os.ReadFile(journalFile(dataDir))
	if err != nil {
		return Journal{}, fmt.Errorf("read the record of upgrades: %w", err)
	}
	j, err := parse(data)
	if err != nil {
		return Journal{}, fmt.Errorf("read the record of upgrades %s: %w", journalFile(dataDir), err)
	}
	return j, nil
}

// LoadIfAny is Load, except that without a journal ok is false.
func LoadIfAny(dataDir string) (j Journal, ok bool, err error) {
	j, err = Load(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return Journal{}, false, nil
	}
	return j, err == nil, err
}

// save makes the journal durable.
func (j Journal) save(dataDir string) error {
	data, err := j.render()
	if err != nil {
		return err
	}
	if err := atomicfile.Write(journalFile(dataDir), data, 0o600); err != nil {
		return fmt.Errorf("keep the record of the upgrade: %w", err)
	}
	return nil
}

func (j Journal) render() ([]byte, error) {
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("render the record of the upgrade: %w", err)
	}
	return append(data, '\n'), nil
}

// parse refuses what no guard could act upon.
func parse(data []byte) (Journal, error) {
	var j Journal
	if err := json.Unmarshal(data, &j); err != nil {
		return Journal{}, err
	}
	if err := j.valid(); err != nil {
		return Journal{}, err
	}
	return j, nil
}

var (
	idFormat  = regexp.MustCompile(`^[0-9a-z-]{1,64}$`)
	sumFormat = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// serviceName is what may stand in a command line and a path.
	serviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.@-]*$`)
)

func (j Journal) valid() error {
	absolute := func(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/" }
	optional := func(path string) bool { return path == "" || absolute(path) }
	switch {
	case j.Format != journalFormat:
		return fmt.Errorf("format %d is of another limpet", j.Format)
	case !idFormat.MatchString(j.ID):
		return fmt.Errorf("%q is no id", j.ID)
	case j.Kind != KindUpgrade && j.Kind != KindRollback:
		return fmt.Errorf("%q is no kind", j.Kind)
	case !sumFormat.MatchString(j.From.SHA256), !sumFormat.MatchString(j.To.SHA256):
		return errors.New("a binary has no sha256")
	case !absolute(j.Installed):
		return fmt.Errorf("%q is no path of a binary", j.Installed)
	case !optional(j.Database), !optional(j.SnapshotDir), !optional(j.Snapshot), !optional(j.Restore):
		return errors.New("a path is not absolute")
	case j.Database == "" && j.Snapshot+j.Restore != "":
		return errors.New("there is a snapshot, but no datastore")
	case j.Restore != "" && j.Kind != KindRollback:
		return errors.New("an upgrade restores nothing on the way forward")
	case j.Timeout <= 0 || j.Attempts < 0:
		return errors.New("a number is out of range")
	}
	return errors.Join(j.Service.valid(), j.validPosition())
}

func (s Service) valid() error {
	switch s.Manager {
	case Systemd, OpenRC:
		if !serviceName.MatchString(s.Name) || strings.Contains(s.Name, "..") {
			return fmt.Errorf("%q is no service", s.Name)
		}
		return nil
	case None:
		if s.Name != "" {
			return errors.New("there is a service, but no manager")
		}
		return nil
	}
	return fmt.Errorf("%q is no service manager", s.Manager)
}
