package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	database    = dataDir + "/server/db/state.db"
	snapshotDir = dataDir + "/server/db/snapshots"
	// ballast fills the node's disk.
	ballast = dataDir + "/ballast"
)

// TestDatastore damages, replaces and fills the datastore of a running cluster,
// on a small disk of its own.
func TestDatastore(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 1, "--node-fs-size", "1200M")
	s := newSpace(t, c, 6*time.Minute)
	s.note("before", "1")

	t.Run("snapshot and restore", func(t *testing.T) { restoreSnapshot(t, s.with(t)) })
	t.Run("damaged database", func(t *testing.T) { damagedDatabase(t, s.with(t)) })
	t.Run("export and import", func(t *testing.T) { exportAndImport(t, s.with(t)) })
	t.Run("full disk", func(t *testing.T) { fullDisk(t, s.with(t)) })
}

// note keeps a value in a ConfigMap.
func (s *space) note(name, value string) {
	s.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
	_, err := s.client.CoreV1().ConfigMaps(s.name).Create(s.ctx, cm, metav1.CreateOptions{})
	s.ok(err)
}

// noted is the value, and the object's revision; empty if there is no such note.
func (s *space) noted(name string) (value string, revision int64) {
	s.t.Helper()
	cm, err := s.client.CoreV1().ConfigMaps(s.name).Get(s.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", 0
	}
	s.ok(err)
	revision, err = strconv.ParseInt(cm.ResourceVersion, 10, 64)
	s.ok(err)
	return cm.Data["value"], revision
}

// saveSnapshot takes a snapshot and returns its name.
func (s *space) saveSnapshot() string {
	s.t.Helper()
	out := s.mustIn(s.ctx, s.t, node1, "limpet", "snapshot", "save")
	name := strings.Fields(out)
	if len(name) < 2 || name[0] != "Saved" {
		s.t.Fatalf("limpet snapshot save says %q", out)
	}
	return name[1]
}

func (s *space) restart() {
	s.t.Helper()
	s.must(s.ctx, s.t, "start", node1)
	s.must(s.ctx, s.t, "wait", node1)
	s.ok(s.connect(s.ctx))
}

// restoreSnapshot goes back to a snapshot: what came after it is gone, and new
// objects have revisions that nobody has seen.
func restoreSnapshot(t *testing.T, s *space) {
	name := s.saveSnapshot()
	s.note("after", "2")
	_, seen := s.noted("after")
	var list []struct{ Name, Reason, Damage string }
	s.ok(json.Unmarshal([]byte(s.mustIn(s.ctx, t, node1, "limpet", "snapshot", "list", "-o", "json")), &list))
	if len(list) != 1 || list[0].Name != name || list[0].Reason != "manual" || list[0].Damage != "" {
		t.Errorf("limpet snapshot list: %+v, want %s", list, name)
	}
	if r := s.in(s.ctx, node1, "limpet", "snapshot", "restore", name); r.code != 1 || !strings.Contains(r.stderr, "stop it first") {
		t.Errorf("restore while limpet runs: exit status %d, %s", r.code, r.text())
	}
	if r := s.in(s.ctx, node1, "limpet", "snapshot", "restore", "no-such"); r.code != 1 || !strings.Contains(r.stderr, "limpet snapshot list") {
		t.Errorf("restore of what is not there: exit status %d, %s", r.code, r.text())
	}
	s.mustIn(s.ctx, t, node1, "limpet", "snapshot", "verify", name)

	s.must(s.ctx, t, "stop", node1, "TERM")
	t.Log(s.mustIn(s.ctx, t, node1, "limpet", "snapshot", "restore", name))
	s.restart()
	if value, _ := s.noted("before"); value != "1" {
		t.Errorf("what was there before the snapshot is %q", value)
	}
	if value, _ := s.noted("after"); value != "" {
		t.Errorf("what came after the snapshot is there: %q", value)
	}
	s.note("after-restore", "3")
	if _, revision := s.noted("after-restore"); revision <= seen {
		t.Errorf("a new object has revision %d, and %d was seen before the restore", revision, seen)
	}
	s.mustIn(s.ctx, t, node1, "limpet", "snapshot", "delete", name)
}

// damagedDatabase overwrites the database of a limpet that was killed: the next
// start puts the newest snapshot in its place, and says so.
func damagedDatabase(t *testing.T, s *space) {
	name := s.saveSnapshot()
	s.must(s.ctx, t, "stop", node1, "KILL")
	file := s.path(t, node1, database)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	s.ok(err)
	for page := int64(1); page < 40; page++ {
		_, err = f.WriteAt([]byte(strings.Repeat("limpet", 100)), page*1024)
		s.ok(err)
	}
	s.ok(f.Close())
	s.ok(os.Truncate(file+"-wal", 0))

	s.restart()
	if value, _ := s.noted("before"); value != "1" {
		t.Errorf("what the snapshot holds is %q", value)
	}
	r := s.in(s.ctx, node1, "limpet", "status")
	if r.code != 1 || !strings.Contains(r.stdout, "the datastore was damaged") || !strings.Contains(r.stdout, name) {
		t.Errorf("limpet status: exit status %d, %s", r.code, r.text())
	}
	eventAbout(s.ctx, t, s.cluster, "about the recovery", func(e *corev1.Event) bool {
		return e.Reason == "DatastoreRecovered" && e.InvolvedObject.Name == node1 && strings.Contains(e.Message, name)
	})
	aside, err := filepath.Glob(filepath.Join(filepath.Dir(file), "state.db.*"))
	s.ok(err)
	if !strings.Contains(strings.Join(aside, " "), "state.db.aside") && len(aside) < 2 {
		t.Errorf("the damaged database was not kept aside: %q", aside)
	}
}

// exportAndImport takes the state out, for etcd and for kine, and in again.
func exportAndImport(t *testing.T, s *space) {
	for _, format := range []string{"etcd", "kine"} {
		file := dataDir + "/" + format + ".export"
		t.Log(s.mustIn(s.ctx, t, node1, "limpet", "datastore", "export", "--format", format, file))
		if r := s.in(s.ctx, node1, "limpet", "datastore", "export", "--format", format, file); r.code != 1 || !strings.Contains(r.stderr, "exist") {
			t.Errorf("export onto a file that exists: exit status %d, %s", r.code, r.text())
		}
		if r := s.in(s.ctx, node1, "limpet", "datastore", "import", file); r.code != 1 {
			t.Errorf("import while limpet runs: exit status %d, %s", r.code, r.text())
		}
	}
	_, revision := s.noted("before")
	s.must(s.ctx, t, "stop", node1, "TERM")
	for _, format := range []string{"etcd", "kine"} {
		t.Log(s.mustIn(s.ctx, t, node1, "limpet", "datastore", "import", "--replace", dataDir+"/"+format+".export"))
	}
	s.restart()
	if value, now := s.noted("before"); value != "1" || now != revision {
		t.Errorf("after it was exported and imported: %q at revision %d, want 1 at %d", value, now, revision)
	}
}

// fullDisk leaves no byte for the datastore: it says so, answers reads, and goes
// on by itself when there is space.
func fullDisk(t *testing.T, s *space) {
	s.note("room", "1")
	s.in(s.ctx, node1, "dd", "if=/dev/zero", "of="+ballast, "bs=64k") // ends when the disk is full
	write := func() error {                                           // larger than what the log may have in reserve after a while
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "full-"}, Data: map[string]string{"x": strings.Repeat("x", 500_000)}}
		_, err := s.client.CoreV1().ConfigMaps(s.name).Create(s.ctx, cm, metav1.CreateOptions{})
		return err
	}
	eventually(s.ctx, t, "a write that fails for want of space, and limpet status to say so", func() error {
		err := write()
		if err == nil {
			return errors.New("it succeeds")
		}
		// A smaller write, such as a lease, may succeed the next moment.
		r := s.in(s.ctx, node1, "limpet", "status")
		if !strings.Contains(err.Error(), "space") || !strings.Contains(r.stdout, "datastore: ") || !strings.Contains(r.stdout, "no space") {
			return fmt.Errorf("%w; limpet status: %s", err, r.text())
		}
		return nil
	})
	if value, _ := s.noted("room"); value != "1" {
		t.Errorf("a read on a full disk says %q", value)
	}
	s.remove(t, node1, ballast)
	eventually(s.ctx, t, "a write when there is space again", func() error {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "again-"}}
		_, err := s.client.CoreV1().ConfigMaps(s.name).Create(s.ctx, cm, metav1.CreateOptions{})
		return err
	})
	eventually(s.ctx, t, "limpet status to be content", func() error {
		r := s.in(s.ctx, node1, "limpet", "status")
		if strings.Contains(r.stdout, "no space") {
			return fmt.Errorf("limpet status: %s", r.text())
		}
		return nil
	})
}
