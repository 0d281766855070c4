package inotify

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := New(dir, Written|Removed)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	path := filepath.Join(dir, "a")
	for _, step := range []struct {
		do   func() error
		mask uint32
	}{
		{func() error { return os.WriteFile(path, []byte("x"), 0o600) }, Written},
		{func() error { return os.Rename(path, path+"b") }, Removed},
		{func() error { return os.Remove(path + "b") }, Removed},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		events, err := w.Read(t.Context())
		if err != nil || len(events) == 0 {
			t.Fatalf("got %v, %v", events, err)
		}
		if e := events[0]; e.Mask&step.mask == 0 || e.Name == "" {
			t.Fatalf("got %+v, want mask %#x", e, step.mask)
		}
	}
}

func TestReadEndsWithContext(t *testing.T) {
	t.Parallel()
	w, err := New(t.TempDir(), Written)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := w.Read(ctx)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// TestFile lets the whole path appear, be rewritten, be replaced and disappear.
func TestFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "etc", "limpet", "file")
	ctx, cancel := context.WithCancel(t.Context())
	contents := make(chan string)
	done := make(chan error)
	go func() {
		last := "never"
		done <- File(ctx, path, func() {
			b, err := os.ReadFile(path)
			now := string(b)
			if err != nil {
				now = "absent"
			}
			if now != last {
				last = now
				contents <- now
			}
		})
	}()
	want := func(s string) {
		t.Helper()
		for got := range contents {
			if got == s {
				return
			}
		}
	}
	write := func(p, s string) {
		t.Helper()
		if err := os.WriteFile(p, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want("absent")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(path, "one")
	want("one")
	write(path+".new", "two")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	want("two")
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	want("absent")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
