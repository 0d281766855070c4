package uninstall

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/created"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Process{
		"12 (sleep) S 1 12 12 0":       {PID: 12, Parent: 1, Name: "sleep", State: "S"},
		"13 (a) R (b c) D 7 12 12 0\n": {PID: 13, Parent: 7, Name: "a) R (b c", State: "D"},
	} {
		p, err := parseStat(text)
		if err != nil || p.PID != want.PID || p.Parent != want.Parent || p.Name != want.Name || p.State != want.State {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "12", "12 (x", "x (y) S 1", "12 (y) S", ")(", "1 (y) S x"} {
		if p, err := parseStat(text); err == nil {
			t.Errorf("%q is read as %+v", text, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("12 (sleep) S 1 12", "36 35 98:0 /r /a\\040b rw - ext4 /dev/x rw", "/opt/x/\n")
	f.Fuzz(func(t *testing.T, stat, mountinfo, installed string) {
		_, _ = parseStat(stat)
		parseMounts(mountinfo)
		list, err := created.ParseInstalled(installed)
		for _, path := range list {
			if err == nil && (!filepath.IsAbs(path) || strings.Contains(path+"/", "/../") || strings.Count(strings.TrimSuffix(path, "/"), "/") < 2) {
				t.Errorf("%q would be removed", path)
			}
		}
	})
}

func TestParseMounts(t *testing.T) {
	t.Parallel()
	got := parseMounts("36 35 98:0 /sub /mnt/a\\040b\\134c rw,noatime master:1 - ext4 /dev/root rw\nnonsense\n40 1 0:4 net:[4026532254] /run/netns/x rw - nsfs nsfs rw\n")
	if want := []Mount{{`/mnt/a b\c`, "ext4", "/sub"}, {"/run/netns/x", "nsfs", "net:[4026532254]"}}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestPodsOf(t *testing.T) {
	t.Parallel()
	spec := `"cgroupsPath":"kubepods-besteffort-podfe9a25c6_b450_499e_a472_7f854fab681a.slice:cri-containerd:77","x":"/kubepods/pod00000000-b450-499e-a472-7f854fab681a/c"`
	if got := podsOf(spec); !slices.Equal(got, []string{uid, "00000000-b450-499e-a472-7f854fab681a"}) {
		t.Errorf("%q", got)
	}
}

func TestRemoveTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside", "file")
	tree := filepath.Join(dir, "tree")
	for _, file := range []string{outside, filepath.Join(tree, "a", "b", "c")} {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is not there is no failure
		if err := removeTree(tree); err != nil {
			t.Fatal(err)
		}
	}
	if exists(tree) || !exists(outside) {
		t.Error("the tree is there, or what it has a link to is gone")
	}
	// Nothing is removed where something is mounted; every machine has /proc.
	if err := removeTree("/proc"); err == nil || !strings.Contains(err.Error(), "is mounted at /proc") {
		t.Errorf("/proc: %v", err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "d")
	for _, sub := range []string{"a/b", "c"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "c", "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	prune(dir)
	if exists(filepath.Join(dir, "a")) || !exists(file) {
		t.Error("not what is empty has gone")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if prune(dir); exists(dir) {
		t.Error("the empty directory is there")
	}
}

func TestRemoveInstalled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("limpet"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"kubectl": "limpet", "ctr": "/usr/bin/nerdctl"} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(at("directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, left := range map[string]bool{"limpet": false, "kubectl": false, "ctr": true, "never": false} {
		if err := removeInstalled(at(name)); err != nil || exists(at(name)) != left {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := removeInstalled(at("directory")); err == nil || !exists(at("directory")) {
		t.Error("a directory is removed as a file")
	}
	if err := removeInstalled(dir + "/"); err != nil || !exists(dir) {
		t.Errorf("a directory that is not empty: %v", err)
	}
}

func TestUsual(t *testing.T) {
	t.Parallel()
	has := func(paths ...string) func(string) bool {
		return func(p string) bool { return slices.Contains(paths, p) }
	}
	if got := usual(has("/usr/local/bin/limpet", "/etc/systemd/system/limpet.service")); got != nil {
		t.Errorf("without an installation: %q", got)
	}
	want := []string{"/opt/bin/limpet", "/opt/bin/limpet-uninstall.sh", "/etc/systemd/system/limpet.service"}
	if got := usual(has(want...)); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestServicesOf(t *testing.T) {
	t.Parallel()
	got := servicesOf([]string{"/etc/systemd/system/", "/opt/units/limpet-shop.service", "/opt/units/limpet-shop.service.env", "/etc/init.d/limpet-x", "/etc/systemd/system/limpet.service", "/usr/local/bin/limpet"})
	if want := append(usualServices(), "limpet-shop", "limpet-x"); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
