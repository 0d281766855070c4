package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// root is a root file system for install.sh: a shell with its tools, a service manager
// that only notes what it is told, and a server with releases. The binary of these
// releases is a shell script, for what is tested here is what install.sh does with files;
// e2e/install_test.go does it with the real one on a machine with systemd.
type root struct {
	*testing.T
	dir   string
	shell string // dash or busybox
	url   string
	key   string

	mu    sync.Mutex
	files map[string][]byte // what the server has, by path
	cut   map[string]int    // of these, only so many bytes come
}

// limpetScript is the binary of a release.
const limpetScript = `#!/bin/sh
case "$1 ${2-}" in
  "--version "*) echo "limpet VERSION (0123456789ab)" ;;
  "config check") for a; do case $a in --bad*) echo "unknown flag $a"; exit 2 ;; esac; done ;;
  "config print") case "$*" in *--data-dir*) echo "data-dir: /srv/the-data  # flag --data-dir" ;; *) echo "data-dir: /var/lib/limpet  # default" ;; esac ;;
  "verify --public-key") grep -q trusted "$4.minisig" ;;
  "status ") cat /run/fake/state ;;
  *) exit 3 ;;
esac
`

// systemctl keeps what it was told in /run/fake.
const systemctl = `#!/bin/sh
d=/run/fake; echo "$*" >>$d/calls
case $1 in
  is-enabled) [ -e $d/enabled ] ;;
  enable) : >$d/enabled ;;
  disable) rm -f $d/enabled ;;
  stop) rm -f $d/state ;;
  restart) echo "$(cat $d/id 2>/dev/null)x" >$d/id; cat $d/next >$d/state ;;
  show) case $3 in
    ActiveState) cat $d/state 2>/dev/null || echo inactive ;;
    InvocationID) cat $d/id 2>/dev/null || echo ;;
    NRestarts) echo 0 ;;
    StatusText) echo ;;
  esac ;;
esac
`

// openrc starts what /run/fake/next says.
const openrc = `#!/bin/sh
echo "${0##*/} $*" >>/run/fake/calls
case "${0##*/} $2" in
  "rc-service status") [ -e /run/fake/state ] || exit 3 ;;
  "rc-service start" | "rc-service restart")
    cp /run/fake/next /run/fake/state
    echo "why it ended" >"/var/log/$1.log"
    mkdir -p "/run/openrc/options/$1" && echo 99999999 >"/run/openrc/options/$1/child_pid"
    ;;
  "rc-service stop") rm -rf /run/fake/state "/run/openrc/options/$1" ;;
esac
case "${0##*/} $1" in
  "rc-update add") ln -s "/etc/init.d/$2" "/etc/runlevels/default/$2" ;;
  "rc-update del") rm -f "/etc/runlevels/default/$2" ;;
esac
exit 0
`

// shells are the two that every test runs with.
var shells = []string{"dash", "busybox"}

func newRoot(t *testing.T, shell, init string) *root {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a root file system of its own")
	}
	r := &root{T: t, dir: t.TempDir(), shell: shell, files: map[string][]byte{}, cut: map[string]int{}}
	for _, d := range []string{"bin", "usr/lib", "lib", "lib64", "proc", "dev", "etc", "tmp", "run/fake", "usr/local/bin", "var/lib", "full"} {
		if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.tools()
	r.write("bin/journalctl", "#!/bin/sh\necho the end of the log\n", 0o755)
	switch init {
	case "systemd":
		r.write("bin/systemctl", systemctl, 0o755)
		r.write("run/fake/next", "active\n", 0o644)
		if err := os.MkdirAll(filepath.Join(r.dir, "run/systemd/system"), 0o755); err != nil {
			t.Fatal(err)
		}
	case "openrc":
		for _, name := range []string{"openrc-run", "rc-service", "rc-update"} {
			r.write("bin/"+name, openrc, 0o755)
		}
		r.write("run/fake/next", "limpet     ready  1s\n", 0o644)
		for _, d := range []string{"run/openrc/options", "var/log", "etc/logrotate.d", "etc/runlevels/default"} {
			if err := os.MkdirAll(filepath.Join(r.dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	server := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// tools: those of busybox, openssl and curl; or those of this machine, with dash as sh
// and wget. (The wget of Debian's static busybox crashes beside a C library.)
func (r *root) tools() {
	names := []string{
		"awk", "base64", "basename", "cat", "chmod", "cmp", "cp", "cut", "date", "df", "dirname", "env", "grep", "head", "id",
		"ln", "ls", "mkdir", "mktemp", "mv", "od", "printf", "readlink", "rm", "rmdir", "sed", "sha256sum", "sleep", "sort", "sync",
		"tail", "tr", "true", "uname", "wc",
	}
	machine := []string{"openssl"}
	if r.shell == "dash" {
		machine = append(machine, append(names, "wget", "dash")...)
	} else {
		machine = append(machine, "curl")
		r.copy("/bin/busybox", "bin/busybox")
		for _, name := range append(names, "sh") {
			if err := os.Symlink("busybox", filepath.Join(r.dir, "bin", name)); err != nil {
				r.Fatal(err)
			}
		}
	}
	for _, name := range machine {
		path, err := exec.LookPath(name)
		if err != nil {
			r.Fatal(err)
		}
		r.copy(path, "bin/"+name)
	}
	if r.shell == "dash" {
		if err := os.Symlink("dash", filepath.Join(r.dir, "bin/sh")); err != nil {
			r.Fatal(err)
		}
	}
}

func (r *root) copy(from, to string) {
	r.Helper()
	if err := copyFile(filepath.Join(r.dir, to), from, 0o755); err != nil {
		r.Fatal(err)
	}
}

func (r *root) write(name, data string, mode fs.FileMode) {
	r.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		r.Fatal(err)
	}
}

func (r *root) read(name string) string {
	data, _ := os.ReadFile(filepath.Join(r.dir, name))
	return string(data)
}

func (r *root) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	data, ok := r.files[strings.TrimPrefix(req.URL.Path, "/")]
	cut, isCut := r.cut[strings.TrimPrefix(req.URL.Path, "/")]
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, req)
		return
	}
	if isCut {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:cut])
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(data))
}

// publish makes a real release, puts it on the server, and makes it the channel's.
func (r *root) publish(version string) {
	r.Helper()
	out := r.TempDir()
	binary := filepath.Join(out, "in")
	if err := os.WriteFile(binary, []byte(strings.ReplaceAll(limpetScript, "VERSION", version)), 0o755); err != nil {
		r.Fatal(err)
	}
	key, _, err := loadKey(filepath.Join(r.dir, "..", "signing.key"))
	if err != nil {
		r.Fatal(err)
	}
	b := &builder{key: key, version: version, root: "../..", out: filepath.Join(out, "release"), level: 1, log: io.Discard}
	small, names := r.parts(b, binary)
	if err := b.finish(names); err != nil {
		r.Fatal(err)
	}
	r.key = publicKey(key)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range append(names, "sha256sums", "sha256sums.minisig") {
		data, err := os.ReadFile(filepath.Join(b.out, name))
		if err != nil {
			r.Fatal(err)
		}
		r.files[version+"/"+name] = data
	}
	r.files["stable/latest"] = []byte(version + "\n")
	r.write("install.sh", string(small), 0o755)
}

// parts writes all of a release but an SBOM, which a shell script has none of.
func (r *root) parts(b *builder, binary string) (installer []byte, names []string) {
	script, err := os.ReadFile("../../install.sh")
	if err == nil {
		script, err = stampKey(script, publicKey(b.key))
	}
	arch := runtime.GOARCH
	small := map[string][]byte{"install.sh": script, "version": []byte(b.version + "\n")}
	b.images = []string{filepath.Join(filepath.Dir(binary), "site.tar")}
	err = errors.Join(err, os.WriteFile(b.images[0], []byte("an image"), 0o644),
		os.MkdirAll(b.out, 0o755), copyFile(filepath.Join(b.out, "limpet-"+arch), binary, 0o755),
		b.archive(r.Context(), archBinary{arch: arch, path: binary}, small))
	for name, data := range small {
		err = errors.Join(err, os.WriteFile(filepath.Join(b.out, name), data, 0o644))
	}
	if err != nil {
		r.Fatal(err)
	}
	return script, []string{"install.sh", "version", "limpet-" + arch, "limpet-airgap-" + arch + ".tar.zst"}
}

// run runs install.sh in the root, with more environment and arguments (after --).
func (r *root) run(words ...string) (string, error) { return r.runScript("/install.sh", words...) }

func (r *root) runScript(script string, words ...string) (string, error) {
	env, args := words, []string(nil)
	if i := slices.Index(words, "--"); i >= 0 {
		env, args = words[:i], words[i+1:]
	}
	const enter = `set -e
for d in usr/lib lib lib64; do [ ! -e /$d ] || mount --bind /$d "$0/$d"; done
mount --bind /proc "$0/proc" && mount --bind /dev "$0/dev"
mount -t tmpfs -o size=1m,mode=0755 full "$0/full"
root=$0 script=$1; shift
exec chroot "$root" /bin/sh "$script" "$@"`
	cmd := exec.CommandContext(r.Context(), "unshare", append([]string{"--mount", "sh", "-c", enter, r.dir, script}, args...)...)
	cmd.Env = append([]string{"PATH=/usr/local/bin:/bin:/usr/bin:/sbin:/usr/sbin", "HOME=/", "INSTALL_LIMPET_ARTIFACT_URL=" + r.url}, env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// good runs install.sh, which must succeed and say all of the texts.
func (r *root) good(texts []string, words ...string) {
	r.Helper()
	out, err := r.run(words...)
	if err != nil {
		r.Fatalf("%v: %v\n%s", words, err, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			r.Errorf("%v: the output lacks %q:\n%s", words, text, out)
		}
	}
}

// bad runs install.sh, which must fail, say the text, and change nothing.
func (r *root) bad(text string, words ...string) {
	r.Helper()
	before := r.tree()
	out, err := r.run(words...)
	if err == nil || !strings.Contains(out, text) {
		r.Errorf("%v: %v, want a failure that says %q:\n%s", words, err, text, out)
	}
	r.same(before)
}

// tree tells every file of the root: type, mode and content, or where a link leads.
func (r *root) tree() map[string]string {
	r.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(r.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, r.dir)
		if strings.HasPrefix(name, "/run/fake/") && name != "/run/fake/enabled" {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %x", sha256.Sum256(data))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			what += " " + target
		}
		tree[name] = what
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return tree
}

func (r *root) same(before map[string]string) {
	r.Helper()
	after := r.tree()
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			r.Errorf("%s: was %q, is %q", name, before[name], after[name])
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			r.Errorf("%s is gone", name)
		}
	}
}

// calls are what the service manager was told since the last time, without questions.
func (r *root) calls() []string {
	lines := strings.Split(strings.TrimSpace(r.read("run/fake/calls")), "\n")
	if err := os.Remove(filepath.Join(r.dir, "run/fake/calls")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.Fatal(err)
	}
	return slices.DeleteFunc(lines, func(l string) bool {
		return l == "" || strings.HasPrefix(l, "show ") || strings.HasPrefix(l, "is-enabled ") || strings.HasSuffix(l, " status")
	})
}
