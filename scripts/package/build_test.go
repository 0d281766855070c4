package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/release"
)

// testBuilder makes releases of this test's own binary.
func testBuilder(t *testing.T) *builder {
	t.Helper()
	key, made, err := loadKey(filepath.Join(t.TempDir(), "made", "key"))
	if err != nil || !made {
		t.Fatalf("%v, %v", made, err)
	}
	image := filepath.Join(t.TempDir(), "site.tar")
	if err := os.WriteFile(image, []byte("an image"), 0o644); err != nil {
		t.Fatal(err)
	}
	return &builder{
		key: key, version: "v1.2.3", root: "../..", level: 1, log: io.Discard, time: time.Unix(1e9, 0).UTC(),
		images: []string{image}, binaries: []archBinary{{arch: runtime.GOARCH, path: os.Args[0]}},
	}
}

func TestReleaseIsReproducibleAndCanBeFetched(t *testing.T) {
	t.Parallel()
	b := testBuilder(t)
	var first map[string]string
	for range 2 {
		b.out = t.TempDir()
		if err := b.build(t.Context()); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		entries, err := os.ReadDir(b.out)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			sum, _, err := sumFile(filepath.Join(b.out, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[e.Name()] = sum
			if first != nil && first[e.Name()] != sum {
				t.Errorf("%s differs between two runs", e.Name())
			}
		}
		first = files
	}
	if len(first) != 8 {
		t.Errorf("the release has %d files: %v", len(first), first)
	}
	options := release.Options{PublicKey: publicKey(b.key), Arch: runtime.GOARCH}
	for _, source := range []string{b.out, filepath.Join(b.out, release.ArchiveFile(runtime.GOARCH))} {
		got, err := release.Fetch(t.Context(), source, t.TempDir(), options)
		if err != nil || got.Version != "v1.2.3" {
			t.Fatalf("%s: %+v, %v", source, got, err)
		}
		if sum, _, err := sumFile(got.Path); sum != first[release.BinaryFile(runtime.GOARCH)] || err != nil {
			t.Errorf("%s: %s, %v", source, sum, err)
		}
	}
	script, err := os.ReadFile(filepath.Join(b.out, release.InstallerFile))
	if err != nil || !strings.Contains(string(script), "\nRELEASE_KEY='"+publicKey(b.key)+"'\n") {
		t.Errorf("install.sh has not the key, %v", err)
	}
}

func TestSBOM(t *testing.T) {
	t.Parallel()
	b := testBuilder(t)
	data, err := b.sbom(b.binaries[0])
	if err != nil {
		t.Fatal(err)
	}
	var doc spdxDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Version != "SPDX-2.3" || doc.Creation.Created != "2001-09-09T01:46:40Z" || doc.Packages[0].Name != "limpet" {
		t.Errorf("%+v", doc.Packages[0])
	}
	names, ids := map[string]bool{}, map[string]bool{}
	for _, p := range doc.Packages {
		if ids[p.ID] || p.Version == "" {
			t.Errorf("%+v: the same ID twice, or no version", p)
		}
		names[p.Name], ids[p.ID] = true, true
	}
	for _, want := range []string{"aead.dev/minisign", "stdlib", "github.com/opencontainers/runc", "nftables"} {
		if !names[want] {
			t.Errorf("the SBOM lacks %s", want)
		}
	}
	for _, r := range doc.Relationships[1:] {
		if r.From != binaryID || !ids[r.To] {
			t.Errorf("%+v leads nowhere", r)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	key, made, err := loadKey(file)
	if err != nil || !made {
		t.Fatalf("%v, %v", made, err)
	}
	again, made, err := loadKey(file)
	if err != nil || made || !again.Equal(key) {
		t.Errorf("%v, %v", made, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for name, text := range map[string]string{"nothing": "", "a public key": publicKey(key), "nonsense": "x\ny"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := loadKey(file); err == nil {
			t.Errorf("%s is taken for a secret key", name)
		}
	}
}

func TestStampKey(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "a\n", "\nRELEASE_KEY=''\nRELEASE_KEY=''\nx\nRELEASE_KEY=''\n", "\nRELEASE_KEY='x'\n"} {
		if out, err := stampKey([]byte(bad), "KEY"); err == nil {
			t.Errorf("%q becomes %q", bad, out)
		}
	}
	out, err := stampKey([]byte("a\nRELEASE_KEY=''\nb\n"), "KEY")
	if string(out) != "a\nRELEASE_KEY='KEY'\nb\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// The repository's install.sh is what shellcheck has nothing against.
func TestShellcheck(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("shellcheck", "-s", "sh", "../../install.sh").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("shellcheck is not installed")
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
