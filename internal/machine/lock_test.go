package machine

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestLock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := LockHeld(dir); err != nil {
		t.Fatalf("a directory without a lock file is held: %v", err)
	}
	release, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("another limpet (pid %d) is running on data directory %s", os.Getpid(), dir)
	if err := LockHeld(dir); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("lockHeld = %v, want %q", err, want)
	}
	if _, err := Lock(dir); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("lock = %v, want %q", err, want)
	}
	release()
	if err := LockHeld(dir); err != nil {
		t.Errorf("after release: %v", err)
	}
}

func TestSearchPath(t *testing.T) {
	t.Parallel()
	const usual = ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for inherited, want := range map[string]string{"": "/h/bin" + usual, "/opt/bin": "/h/bin:/opt/bin" + usual} {
		if got := searchPath("/h/bin", inherited); got != want {
			t.Errorf("searchPath = %q, want %q", got, want)
		}
	}
}
