package journal

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func apply(t *testing.T, j *Journal, changes ...Change) {
	t.Helper()
	if err := j.Apply(changes); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, j *Journal) map[string]string {
	t.Helper()
	got := map[string]string{}
	if _, err := j.Each(func(key string, value []byte) error { got[key] = string(value); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func put(key, value string) Change { return Change{key, []byte(value)} }

func TestSurvivesReopening(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "cache")
	j := open(t, dir)
	apply(t, j, put("a", "1"), put("b", "2"), put("empty", ""))
	apply(t, j, put("a", "3"), Change{Key: "b"}, Change{Key: "never was"})
	want := map[string]string{"a": "3", "empty": ""}
	for range 2 {
		if got := content(t, j); !maps.Equal(got, want) {
			t.Fatalf("content is %v, want %v", got, want)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, dir)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, fileName): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %v", path, info.Mode(), err, mode)
		}
	}
}

func TestUnchangedIsNotWritten(t *testing.T) {
	t.Parallel()
	j := open(t, t.TempDir())
	apply(t, j, put("a", "1"), put("b", "2"))
	before := j.Stats().Written
	apply(t, j, put("b", "2"), put("a", "1"), Change{Key: "c"})
	if got := j.Stats().Written; got != before {
		t.Errorf("%d bytes were written for nothing", got-before)
	}
	value := bytes.Repeat([]byte("x"), 1000)
	apply(t, j, Change{"a", value})
	if got := j.Stats().Written - before; got < 1000 || got > 1050 {
		t.Errorf("%d bytes were written for one value of 1000", got)
	}
}

// Every way to cut or damage the file leaves a journal that opens, holds only
// values that were stored, and takes new ones.
func TestDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	stored := map[string]string{}
	for i := range 20 {
		key, value := fmt.Sprintf("key%d", i), fmt.Sprintf("value %d", i)
		stored[key] = value
		apply(t, j, put(key, value))
	}
	whole, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		for name, data := range map[string][]byte{
			"cut":    whole[:i],
			"zeroed": append(append(bytes.Clone(whole[:i]), make([]byte, min(16, len(whole)-i))...), whole[min(len(whole), i+16):]...),
		} {
			checkDamaged(t, fmt.Sprintf("%s at %d", name, i), data, stored, name == "zeroed")
		}
	}
}

func checkDamaged(t *testing.T, what string, data []byte, stored map[string]string, most bool) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), data, 0o600); err != nil {
		t.Fatal(err)
	}
	j := open(t, dir)
	got := content(t, j)
	for key, value := range got {
		if stored[key] != value {
			t.Fatalf("%s: %s is %q, stored was %q", what, key, value, stored[key])
		}
	}
	if most && bytes.HasPrefix(data, []byte(fileHeader)) && len(got) < len(stored)-2 {
		t.Fatalf("%s: %d of %d values are left", what, len(got), len(stored))
	}
	apply(t, j, put("new", "value"))
	got["new"] = "value"
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	if now := content(t, again); !maps.Equal(now, got) || again.Stats().Damaged != 0 {
		t.Fatalf("%s: after a write the content is %v (%+v), want %v", what, now, again.Stats(), got)
	}
	_ = again.Close()
}

func TestCompaction(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	value := bytes.Repeat([]byte("v"), 10_000)
	for i := range 100 {
		apply(t, j, Change{fmt.Sprintf("key%d", i%3), append(value, byte(i))})
	}
	s := j.Stats()
	if s.Size > 2*compactAbove || s.Keys != 3 {
		t.Errorf("%+v after 100 values of 10 kB for 3 keys", s)
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	if err != nil || info.Size() != s.Size || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has %d bytes and mode %v, known are %d (%v)", info.Size(), info.Mode(), s.Size, err)
	}
	want := content(t, j)
	if got := content(t, open(t, dir)); !maps.Equal(got, want) {
		t.Error("another content after opening again")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the directory holds %v", entries)
	}
}

func TestKeysAndSame(t *testing.T) {
	t.Parallel()
	j := open(t, t.TempDir())
	apply(t, j, put("pods/a", "1"), put("pods/b", "2"), put("podtemplates/c", "3"))
	if got := j.Keys("pods/"); len(got) != 2 {
		t.Errorf("keys are %v", got)
	}
	if !j.Same("pods/a", []byte("1")) || j.Same("pods/a", []byte("2")) || !j.Same("pods/z", nil) {
		t.Error("Same does not compare")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(appendFrame(nil, "pods/ns/name", []byte("value")))
	f.Add(appendFrame(nil, "", nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := scanner{file: bytes.NewReader(data), size: int64(len(data))}
		for s.next() {
			again := appendFrame(nil, s.key, s.value)
			key, value, err := parsePayload(again[:headerSize], again[headerSize:])
			if err != nil || key != s.key || !bytes.Equal(value, s.value) || (value == nil) != (s.value == nil) {
				t.Fatalf("%q=%q reads back as %q=%q, %v", s.key, s.value, key, value, err)
			}
		}
		if s.err != nil {
			t.Fatal(s.err)
		}
	})
}
