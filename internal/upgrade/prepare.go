package upgrade

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/release"
	"github.com/limpetio/limpet/internal/status"
)

// DefaultTimeout is how long a new version may take to become healthy.
const DefaultTimeout = 5 * time.Minute

// startingFor is how long a limpet may be on its way up: after that, what is not
// well is in trouble.
const startingFor = 2 * time.Minute

// Options of Start.
type Options struct {
	// Source is a file, a URL or a version, as release.Fetch takes it.
	Source string
	// BaseURL is where versions are looked for; empty: release.DefaultBaseURL.
	BaseURL string
	// PublicKey is the minisign key to trust; usually version.PublicKey.
	PublicKey string
	// Client makes the requests; nil: one of release.Fetch.
	Client *http.Client
	// WantVersion is what the signed release has to be; empty: any.
	WantVersion string
	// Timeout is how long the new version may take to become healthy, in running
	// time; 0: DefaultTimeout.
	Timeout time.Duration
	// DataDir is that of the limpet to upgrade.
	DataDir string
	// Force allows to go back, or to leave out, a minor version of Kubernetes.
	Force bool
	// RequestedBy is kept in the journal, as it is.
	RequestedBy string
	// Progress gets a line when something begins; nil: nobody does.
	Progress func(text string)
	// Download is told how many bytes have come, and of how many (-1: unknown).
	Download func(done, total int64)
	Logger   *slog.Logger // nil discards
}

func (o Options) complete() Options {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Start verifies the new version, puts everything in place and starts the guard,
// which replaces the running limpet from then on; see Await. When it fails,
// nothing has changed. Its errors are *Error, ErrSame if the very same binary is
// installed, or of this machine.
func Start(ctx context.Context, o Options) (id string, err error) {
	o = o.complete()
	if err := machine.RequireRoot(); err != nil {
		return "", errors.New("this must run as root: it replaces limpet and restarts it")
	}
	if err := release.CheckKey(o.PublicKey); err != nil {
		return "", fetchError(err)
	}
	if err := checkName(o.Source, runtime.GOARCH); err != nil {
		return "", err
	}
	p, err := begin(ctx, o)
	if err != nil {
		return "", err
	}
	defer p.end()
	defer p.forget(&err)
	if err := p.fetch(ctx); err != nil {
		return "", err
	}
	if err := p.keep(ctx); err != nil {
		return "", err
	}
	return p.launch(ctx)
}

// preparation is what happens before the guard begins. One at a time.
type preparation struct {
	Options
	site    site
	report  status.Report // of the running limpet; empty if it does not answer
	journal Journal
	end     func() // releases the lock
}

// startLock is held while an operation is prepared.
func startLock(dataDir string) string { return filepath.Join(dir(dataDir), "start.lock") }

// begin looks whether there may be an operation at all.
func begin(ctx context.Context, o Options) (_ *preparation, err error) {
	if _, err := os.Stat(o.DataDir); err != nil {
		return nil, refusal(NotReplaceable, "Is its data elsewhere (--data-dir)?", "no limpet has run here: %v", err)
	}
	if err := os.MkdirAll(dir(o.DataDir), 0o700); err != nil {
		return nil, fmt.Errorf("create directory for upgrades: %w", err)
	}
	p := &preparation{Options: o}
	p.end, err = lock(startLock(o.DataDir))
	if errors.Is(err, errHeld) {
		return nil, refusal(UnderWay, "", "another upgrade is being prepared")
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.end()
		}
	}()
	if err := p.nothingUnderWay(ctx); err != nil {
		return nil, err
	}
	if p.site, err = locate(ctx, o.DataDir); err != nil {
		return nil, err
	}
	if err := replaceable(p.site.installed); err != nil {
		return nil, err
	}
	if p.report, err = status.Fetch(ctx, status.Socket); err != nil || p.report.PID != p.site.pid {
		p.report = status.Report{}
	}
	return p, p.newJournal(ctx)
}

// nothingUnderWay: an operation whose guard is gone is helped on.
func (p *preparation) nothingUnderWay(ctx context.Context) error {
	j, ok, err := LoadIfAny(p.DataDir)
	if err != nil {
		return fmt.Errorf("%w; if it is damaged, remove it: limpet upgrade goes by it", err)
	}
	if !ok || j.Final() {
		return concluded(ctx, p.DataDir)
	}
	if err := launch(ctx, p.DataDir, j); err != nil {
		p.Logger.Warn("the upgrade that is under way has no guard", "error", err)
	}
	return refusal(UnderWay, "limpet status shows how far it is", "%s", j.Sentence())
}

// concluded waits until the guard of an operation that has ended has tidied up.
func concluded(ctx context.Context, dataDir string) error {
	if await(ctx, concludeTimeout, func() bool { return !guarded(dataDir) }) == nil {
		return nil
	}
	return refusal(UnderWay, "Try again", "the guard of the upgrade before is still tidying up")
}

// concludeTimeout is more than the cluster may take to hear of the end.
const concludeTimeout = time.Minute

func (p *preparation) newJournal(ctx context.Context) error {
	random := make([]byte, 6)
	_, _ = rand.Read(random) // never fails: see crypto/rand
	p.journal = Journal{
		Format: journalFormat, ID: hex.EncodeToString(random), Kind: KindUpgrade, RequestedBy: p.RequestedBy,
		Installed: p.site.installed, Service: p.site.service, Timeout: p.Timeout, Phase: Staged,
		Node: p.report.Node, Started: time.Now().UTC(),
	}
	j := &p.journal
	if time.Since(p.report.Started) > startingFor { // else they may be on their way
		j.Ignore = unwell(p.report)
	}
	var err error
	if j.Node == "" {
		j.Node, _ = os.Hostname() // for names only
	}
	if j.From.SHA256, err = sumOf(ctx, p.site.installed); err != nil {
		return fmt.Errorf("look at the installed limpet: %w", err)
	}
	if id, err := identify(ctx, p.site.installed); err == nil {
		j.From.Version, j.From.Kubernetes = id.Version, id.KubernetesVersion
	}
	if p.report.Version != "" { // a file that was replaced without a restart tells less
		j.From.Version, j.From.Kubernetes = p.report.Version, p.report.Kubernetes
	}
	if known, err := os.ReadFile(filepath.Join(ReleaseDir(p.DataDir), release.VersionFile)); err == nil && j.From.Version == "" {
		j.From.Version = string(known)
	}
	database := filepath.Join(p.DataDir, "server", "db", "state.db")
	if _, err := os.Stat(database); err == nil && (p.report.Mode == "" || p.report.Mode == "server") {
		j.Database, j.SnapshotDir = database, filepath.Join(filepath.Dir(database), "snapshots")
		if d := p.report.Datastore; d != nil && d.Snapshots != nil && d.Snapshots.Dir != "" {
			j.SnapshotDir = d.Snapshots.Dir
		}
	}
	return p.room()
}

// room compares the space with what an upgrade may need.
func (p *preparation) room() error {
	info, err := os.Stat(p.site.installed)
	if err != nil {
		return err
	}
	n := needs{
		Binary: info.Size() * 5 / 4, Payload: treeSize(filepath.Join(p.DataDir, "data", "current") + "/"),
		SameDevice: sameDevice(p.DataDir, filepath.Dir(p.site.installed)),
	}
	if p.journal.Database != "" {
		for _, part := range []string{"", "-wal"} {
			if info, err := os.Stat(p.journal.Database + part); err == nil {
				n.Database += info.Size()
			}
		}
	}
	data, bin := n.space()
	for _, c := range []struct {
		path string
		need int64
	}{{dir(p.DataDir), data}, {filepath.Dir(p.site.installed), bin}} {
		have, err := free(c.path)
		if err != nil {
			return err
		}
		if have < c.need {
			return refusal(NoSpace, "Free some; limpet snapshot list shows what may go",
				"there are %d MiB free at %s, and an upgrade may need %d MiB there", have>>20, c.path, c.need>>20)
		}
	}
	return nil
}

// fetch gets the new binary and looks at it.
func (p *preparation) fetch(ctx context.Context) error {
	staged := stagedDir(p.DataDir)
	if err := errors.Join(os.RemoveAll(staged), os.Mkdir(staged, 0o700)); err != nil {
		return fmt.Errorf("make room for the new version: %w", err)
	}
	p.Progress("Getting " + p.Source)
	got, err := release.Fetch(ctx, p.Source, staged, release.Options{
		PublicKey: p.PublicKey, Arch: runtime.GOARCH, BaseURL: p.BaseURL, Client: p.Client,
		Progress: p.Download, Logger: p.Logger, KeepProof: true,
	})
	if err != nil {
		return fetchError(err)
	}
	if p.WantVersion != "" && got.Version != p.WantVersion {
		return refusal(WrongVersion, "", "%s is %s, signed, but not the %s that was asked for", p.Source, got.Version, p.WantVersion)
	}
	p.journal.To.Version = got.Version
	if err := p.examine(ctx); err != nil {
		return err
	}
	p.Progress(fmt.Sprintf("The signature of %s is good", got.Version))
	return checkStep(p.journal.From.Kubernetes, p.journal.To.Kubernetes, p.Force)
}

// examine has the staged binary say what it is: one that cannot even do that is
// refused while the old one runs.
func (p *preparation) examine(ctx context.Context) error {
	j := &p.journal
	var err error
	if j.To.SHA256, err = sumOf(ctx, stagedFile(p.DataDir)); err != nil {
		return fmt.Errorf("look at the new limpet: %w", err)
	}
	if j.To.SHA256 == j.From.SHA256 {
		return fmt.Errorf("limpet %s: %w", j.To.Version, ErrSame)
	}
	if err := checkELF(stagedFile(p.DataDir), runtime.GOARCH); err != nil {
		return err
	}
	id, err := identify(ctx, stagedFile(p.DataDir))
	if err != nil {
		return &Error{Code: WrongMachine, What: j.To.Version + " does not run on this machine", Err: err}
	}
	j.To.Kubernetes = id.KubernetesVersion
	return nil
}

// identifyTimeout is generous: the binary is read from flash for the first time.
const identifyTimeout = time.Minute

// identify asks a binary what it is.
func identify(ctx context.Context, binary string) (identity, error) {
	ctx, cancel := context.WithTimeout(ctx, identifyTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "version", "-o", "json")
	cmd.Env = []string{"PATH=" + searchPath()}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return identity{}, fmt.Errorf("run %s version: %w", binary, err)
	}
	return parseIdentity(out)
}

// keep puts the installed binary where the guard, and a rollback, find it.
func (p *preparation) keep(ctx context.Context) error {
	if err := place(ctx, p.site.installed, previousFile(p.DataDir), false); err != nil {
		return fmt.Errorf("keep the installed limpet: %w", err)
	}
	sum, err := sumOf(ctx, previousFile(p.DataDir))
	if err == nil && sum != p.journal.From.SHA256 {
		err = errors.New("it has changed meanwhile")
	}
	if err != nil {
		return fmt.Errorf("keep the installed limpet: %w", err)
	}
	if p.site.service.Manager == None {
		if err := remember(p.DataDir, p.site.pid); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(stagedDir(p.DataDir))
}

// launch writes the journal and starts the guard. From the journal on the
// upgrade is under way, also if the power fails now.
func (p *preparation) launch(ctx context.Context) (string, error) {
	j := p.journal
	if err := j.valid(); err != nil {
		return "", fmt.Errorf("the upgrade cannot be recorded: %w", err)
	}
	if err := j.save(p.DataDir); err != nil {
		return "", err
	}
	err := launch(ctx, p.DataDir, j)
	if err == nil {
		return j.ID, nil
	}
	// Nobody may begin it later, when nobody expects it any more.
	release, lockErr := lockGuard(ctx, p.DataDir)
	if lockErr != nil {
		return j.ID, nil //nolint:nilerr // it has begun after all
	}
	defer release()
	j = j.Next(Event{Kind: Failed, Reason: err.Error()})
	j.Ended = time.Now().UTC()
	ctx = context.WithoutCancel(ctx)
	return "", errors.Join(&Error{Code: NotReplaceable, Err: err}, j.save(p.DataDir), withdraw(ctx, j.Service.Manager))
}

// forget removes what was staged when it has failed.
func (p *preparation) forget(err *error) {
	if *err == nil {
		return
	}
	for _, path := range []string{stagedDir(p.DataDir), commandFile(p.DataDir)} {
		if e := os.RemoveAll(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			p.Logger.Warn("what was prepared could not be removed", "error", e)
		}
	}
}
