package reserve

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/testenv"
)

// occupy writes a file of so many bytes.
func occupy(t *testing.T, dir string, bytes int64) (file string) {
	t.Helper()
	file = filepath.Join(dir, "ballast")
	if err := os.WriteFile(file, make([]byte, bytes), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	n, err := freeBytes(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func exists(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, Name))
	return err == nil
}

func TestFullDiskGetsItsReserveBack(t *testing.T) {
	t.Parallel()
	dir, log := testenv.SmallDisk(t, 2*spare), slog.New(slog.DiscardHandler)
	for range 2 { // the second finds it
		if err := keep(t.Context(), dir, log, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if got := 2*spare - free(t, dir); got < size || got > size+(64<<10) {
		t.Fatalf("the reserve takes %d bytes, want %d", got, size)
	}
	Release(dir, log)
	if !exists(dir) {
		t.Fatal("released on a disk that has space")
	}
	occupy(t, dir, free(t, dir))
	Release(dir, log)
	if got := free(t, dir); got < size {
		t.Fatalf("%d bytes are free after the release", got)
	}
	Release(dir, log) // there is none
}

func TestReserveWaitsForSpace(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 2*spare)
	ballast := occupy(t, dir, spare+1)
	done := make(chan error, 1)
	go func() { done <- keep(t.Context(), dir, slog.New(slog.DiscardHandler), time.Millisecond) }()
	select {
	case err := <-done:
		t.Fatalf("kept with too little space: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if exists(dir) {
		t.Fatal("made with too little space")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || !exists(dir) {
		t.Fatalf("not made with space: %v", err)
	}
}

func TestHalfAReserveIsReplaced(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 2*spare)
	if err := os.WriteFile(filepath.Join(dir, Name), []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ensure(dir); err != nil {
		t.Fatal(err)
	}
	if got := 2*spare - free(t, dir); got < size {
		t.Fatalf("the reserve takes %d bytes, want %d", got, size)
	}
}
