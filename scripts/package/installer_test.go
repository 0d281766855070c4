package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// forShells runs a test with each shell, on a root with that service manager.
func forShells(t *testing.T, init string, test func(*root)) {
	t.Parallel()
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			r := newRoot(t, shell, init)
			r.publish("v0.1.0")
			test(r)
		})
	}
}

const (
	unitPath = "etc/systemd/system/limpet.service"
	envPath  = unitPath + ".env"
)

func (r *root) wantCalls(want ...string) {
	r.Helper()
	if got := r.calls(); !slices.Equal(got, want) {
		r.Errorf("the service manager was told %q, want %q", got, want)
	}
}

func (r *root) wantMode(name string, mode os.FileMode) {
	r.Helper()
	if info, err := os.Lstat(filepath.Join(r.dir, name)); err != nil || info.Mode().Perm() != mode {
		r.Errorf("%s: %v, %v, want mode %o", name, info, err, mode)
	}
}

func TestInstallAndUpdate(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		r.good([]string{"signature checked by openssl", "limpet v0.1.0 is up"})
		r.wantCalls("daemon-reload", "enable --quiet limpet", "restart --no-block limpet")
		r.wantMode("usr/local/bin/limpet", 0o755)
		r.wantMode(envPath, 0o600)
		r.wantMode(unitPath, 0o644)
		for _, name := range []string{"kubectl", "ctr"} {
			if target, err := os.Readlink(filepath.Join(r.dir, "usr/local/bin", name)); target != "limpet" {
				r.Errorf("%s leads to %q, %v", name, target, err)
			}
		}
		for _, line := range []string{"ExecStart=\"/usr/local/bin/limpet\" server\n", "Type=notify\n", "KillMode=process\n", "Delegate=yes\n"} {
			if !strings.Contains(r.read(unitPath), line) {
				r.Errorf("the unit lacks %q:\n%s", line, r.read(unitPath))
			}
		}
		installed := r.read("var/lib/limpet/installed")
		for _, line := range []string{"# version: v0.1.0", "# service: systemd limpet", "/" + unitPath, "/" + envPath, "/usr/local/bin/limpet-killall.sh", "/usr/local/bin/kubectl", "/etc/systemd/system/"} {
			if !strings.Contains(installed, line+"\n") {
				r.Errorf("the record lacks %q:\n%s", line, installed)
			}
		}

		before := r.tree()
		r.good([]string{"installed already", "nothing has changed: not restarted"})
		r.wantCalls()
		r.same(before)
		r.good([]string{"restarting limpet"}, "INSTALL_LIMPET_FORCE_RESTART=true")
		r.wantCalls("restart --no-block limpet")

		r.good([]string{"restarting limpet"}, "--", "server", "--tls-san", `a "b" $c 50% d\e`)
		r.wantCalls("daemon-reload", "restart --no-block limpet")
		wantLine := `ExecStart="/usr/local/bin/limpet" server "--tls-san" "a \"b\" $$c 50%% d\\e"` + "\n"
		if !strings.Contains(r.read(unitPath), wantLine) {
			r.Errorf("the unit lacks %q:\n%s", wantLine, r.read(unitPath))
		}

		r.publish("v0.2.0")
		r.good([]string{"keeps its arguments", "limpet v0.2.0 is up"})
		r.wantCalls("daemon-reload", "restart --no-block limpet")
		if !strings.Contains(r.read(unitPath), wantLine) || !strings.Contains(r.read("usr/local/bin/limpet"), "v0.2.0") {
			r.Errorf("after the update:\n%s", r.read(unitPath))
		}
		r.publish("v0.1.5")
		r.bad("v0.2.0 is installed, which is newer than v0.1.5")
		r.good([]string{"limpet v0.1.5 is up"}, "INSTALL_LIMPET_VERSION=v0.1.5")
	})
}

func TestAgentAndItsEnvironment(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		proxy := `http://user:p"a'ss$word` + "`x`" + `\@proxy:3128/ with spaces`
		r.good(nil, "LIMPET_URL=https://10.0.0.5:6443", "LIMPET_TOKEN=abc", "LIMPET_KUBELET_ARG=a=1\nLIMPET_EVIL=2", "HTTPS_PROXY="+proxy,
			"no_proxy=10.0.0.0/8,.local", "UNRELATED=1", "INSTALL_LIMPET_EXEC=--node-label 'a b=c'")
		r.wantCalls("daemon-reload", "enable --quiet limpet-agent", "restart --no-block limpet-agent")
		if unit := r.read("etc/systemd/system/limpet-agent.service"); !strings.Contains(unit, `limpet" agent "--node-label" "a b=c"`+"\n") {
			r.Error(unit)
		}
		file := filepath.Join(r.dir, "etc/systemd/system/limpet-agent.service.env")
		out, err := exec.Command("sh", "-c", `. "$0"; printf '%s|' "$HTTPS_PROXY" "$no_proxy" "$LIMPET_URL" "$LIMPET_TOKEN" "$LIMPET_KUBELET_ARG" "$LIMPET_EVIL" "$UNRELATED"`, file).CombinedOutput()
		if want := proxy + "|10.0.0.0/8,.local|https://10.0.0.5:6443|abc|a=1\nLIMPET_EVIL=2|||"; string(out) != want || err != nil {
			r.Errorf("the environment is read back as %q, want %q; %v\n%s", out, want, err, r.read("etc/systemd/system/limpet-agent.service.env"))
		}
	})
}

func TestFailuresChangeNothing(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		binary := "v0.1.0/limpet-" + runtime.GOARCH
		r.failures(binary)
		r.good(nil)
		r.calls()
		r.publish("v0.2.0") // and the same over an installed one
		r.failures("v0.2.0/limpet-" + runtime.GOARCH)
		r.calls()

		r.write("run/fake/next", "failed\n", 0o644)
		r.bad("the end of the log")
		r.wantCalls("daemon-reload", "restart --no-block limpet", "daemon-reload", "restart --no-block limpet")
	})
}

// failures tries what must fail, with the release that the binary belongs to.
func (r *root) failures(binary string) {
	r.Helper()
	dir := filepath.Dir(binary) + "/"
	change := func(name string, data []byte) func() {
		old := r.files[name]
		r.files[name] = data
		return func() { r.files[name] = old }
	}
	undo := change(binary, append(slices.Clone(r.files[binary]), "echo evil >/evil\n"...))
	r.bad("is damaged or was changed")
	undo()

	undo = change(dir+"sha256sums", append(slices.Clone(r.files[dir+"sha256sums"]), "\n"...))
	r.bad("the signature of the release does not match")
	undo()

	undo = change(dir+"sha256sums.minisig", []byte("untrusted comment: x\nRWQ=\ntrusted comment: y\nAA==\n"))
	r.bad("the signature of the release does not match")
	undo()

	undo = change(dir+"version", []byte("v9.0.0\n"))
	r.bad("version is damaged or was changed")
	undo()

	r.files["v9.0.0/sha256sums"], r.files["v9.0.0/sha256sums.minisig"], r.files["v9.0.0/version"] = r.files[dir+"sha256sums"], r.files[dir+"sha256sums.minisig"], r.files[dir+"version"]
	r.bad("not the v9.0.0 that was asked for", "INSTALL_LIMPET_VERSION=v9.0.0")

	other, err := makeKey(filepath.Join(r.TempDir(), "other"))
	if err != nil {
		r.Fatal(err)
	}
	r.bad("the signature of the release does not match", "INSTALL_LIMPET_PUBLIC_KEY="+publicKey(other))

	r.bad("v7.0.0/sha256sums", "INSTALL_LIMPET_VERSION=v7.0.0")
	r.bad("is no version", "INSTALL_LIMPET_VERSION=v7.0.0/../x")
	r.bad("takes true or false", "INSTALL_LIMPET_SKIP_DOWNLOAD=perhaps")
	r.bad("unknown flag --bad", "--", "server", "--bad")
	r.bad("not 'limpet kubectl'", "--", "kubectl")
	r.bad("MiB free", "INSTALL_LIMPET_BIN_DIR=/full")

	if r.shell == "dash" { // busybox runs its own uname, whatever PATH says
		uname := filepath.Join(r.dir, "usr/local/bin/uname")
		r.write("usr/local/bin/uname", "#!/bin/sh\necho riscv64\n", 0o755)
		r.bad("no limpet for the architecture 'riscv64'")
		if err := os.Remove(uname); err != nil {
			r.Fatal(err)
		}
	}

	openssl := filepath.Join(r.dir, "bin/openssl")
	if err := os.Rename(openssl, openssl+".away"); err != nil {
		r.Fatal(err)
	}
	if r.read("usr/local/bin/limpet") == "" {
		r.bad("install openssl (3.0 or later) or minisign")
	}
	if err := os.Rename(openssl+".away", openssl); err != nil {
		r.Fatal(err)
	}
}

func TestTruncatedDownload(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		r.cut["v0.1.0/limpet-"+runtime.GOARCH] = 100
		r.bad("cannot get")
	})
}

func TestFailedFirstStart(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		r.write("run/fake/next", "failed\n", 0o644)
		r.bad("did not start")
		r.wantCalls("daemon-reload", "enable --quiet limpet", "restart --no-block limpet", "stop limpet", "reset-failed limpet", "disable --quiet limpet", "daemon-reload")
	})
}

func TestInstalledLimpetChecksTheNext(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		r.good(nil)
		if err := os.Remove(filepath.Join(r.dir, "bin/openssl")); err != nil {
			r.Fatal(err)
		}
		r.publish("v0.2.0")
		r.good([]string{"signature checked by the installed limpet", "v0.2.0 is up"})
	})
}

func TestAirGap(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		archive := filepath.Join(r.TempDir(), "a.tar.zst")
		if err := os.WriteFile(archive, r.files["v0.1.0/limpet-airgap-"+runtime.GOARCH+".tar.zst"], 0o644); err != nil {
			r.Fatal(err)
		}
		if out, err := exec.Command("tar", "--zstd", "-xf", archive, "-C", r.dir).CombinedOutput(); err != nil {
			r.Fatalf("%v: %s", err, out)
		}
		clear(r.files)
		dir := "/limpet-airgap-" + runtime.GOARCH
		image := filepath.Join(r.dir, dir, "images/site.tar")
		if err := os.WriteFile(image, []byte("another image"), 0o644); err != nil {
			r.Fatal(err)
		}
		before := r.tree()
		out, err := r.runScript(dir+"/install.sh", "INSTALL_LIMPET_ARTIFACT_URL=")
		if err == nil || !strings.Contains(out, "images/site.tar is damaged or was changed") {
			r.Errorf("a changed image: %v\n%s", err, out)
		}
		r.same(before)
		if err := os.WriteFile(image, []byte("an image"), 0o644); err != nil {
			r.Fatal(err)
		}
		out, err = r.runScript(dir+"/install.sh", "INSTALL_LIMPET_ARTIFACT_URL=")
		if err != nil || !strings.Contains(out, "installing from the files in "+dir) || r.read("var/lib/limpet/agent/images/site.tar") != "an image" {
			r.Errorf("%v\n%s", err, out)
		}
	})
}

func TestOpenRC(t *testing.T) {
	forShells(t, "openrc", func(r *root) {
		r.good([]string{"limpet v0.1.0 is up"}, "https_proxy=http://a b", "--", "server", "--tls-san", "it's")
		r.wantCalls("rc-update add limpet default", "rc-service limpet start")
		r.wantMode("etc/logrotate.d/limpet", 0o644)
		r.wantMode("etc/init.d/limpet", 0o755)
		r.wantMode("etc/limpet/limpet.env", 0o600)
		// As supervise-daemon's shell would see them.
		out, err := exec.Command("sh", "-c", `depend() { :; }; . "$0"; eval "printf '%s|' $command_args"`, filepath.Join(r.dir, "etc/init.d/limpet")).CombinedOutput()
		if string(out) != "server|--tls-san|it's|" || err != nil {
			r.Errorf("the arguments are read back as %q, %v\n%s", out, err, r.read("etc/init.d/limpet"))
		}
		before := r.tree()
		r.good([]string{"nothing has changed"})
		r.wantCalls()
		r.same(before)
	})
}

func TestFailedStartOnOpenRC(t *testing.T) {
	forShells(t, "openrc", func(r *root) {
		r.write("run/fake/next", "nothing\n", 0o644)
		if err := os.RemoveAll(filepath.Join(r.dir, "usr/local")); err != nil { // what it makes there goes, too
			r.Fatal(err)
		}
		r.bad("why it ended")
		r.wantCalls("rc-update add limpet default", "rc-service limpet start", "rc-service limpet stop", "rc-update del limpet default")
	})
}

// The proof goes where limpet has its data, and what a run left that the power ended
// goes with the next.
func TestProofAndLeftovers(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		const proof = "srv/the-data/upgrade/release/"
		left := []string{"usr/local/bin/.limpet-install.1234/limpet", "etc/systemd/system/.limpet-install.limpet.service.env.old", "var/lib/limpet/.limpet-install.installed.new"}
		for _, name := range left {
			r.write(name, "half", 0o600)
		}
		r.good(nil, "--", "server", "--data-dir", "/srv/the-data")
		for _, name := range left {
			if r.read(name) != "" {
				r.Errorf("%s is still there", name)
			}
		}
		for _, name := range []string{"version", "sha256sums", "sha256sums.minisig"} {
			if got := r.read(proof + name); got == "" || got != string(r.files["v0.1.0/"+name]) {
				r.Errorf("%s is %q", proof+name, got)
			}
			if !strings.Contains(r.read("var/lib/limpet/installed"), "/"+proof+name+"\n") {
				r.Errorf("the record lacks %s", name)
			}
		}
	})
}

func TestNoServiceManager(t *testing.T) {
	forShells(t, "none", func(r *root) {
		r.good([]string{"/usr/local/bin/limpet server '--debug'"}, "--", "server", "--debug")
		r.good([]string{"v0.1.0 is installed"}, "INSTALL_LIMPET_SKIP_DOWNLOAD=true", "INSTALL_LIMPET_SYMLINK=skip")
	})
}

func TestTwoAtOnce(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		// This test's own process holds the lock, as an installation that runs.
		stat, err := os.ReadFile("/proc/self/stat")
		if err != nil {
			r.Fatal(err)
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		pid := strings.Fields(string(stat))[0]
		r.write("run/limpet-install.lock/owner", pid+" "+fields[19]+"\n", 0o644)
		r.bad("another installation is running (process " + pid + ")")
		r.write("run/limpet-install.lock/owner", pid+" 1\n", 0o644) // a process that has ended
		r.good([]string{"is up"})
		if _, err := os.Stat(filepath.Join(r.dir, "run/limpet-install.lock")); err == nil {
			r.Error("the lock was left")
		}
	})
}

func TestReadOnlyUsrLocal(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		// As root everything can be written; a file where the directory would be cannot be one.
		if err := os.RemoveAll(filepath.Join(r.dir, "usr/local")); err != nil {
			r.Fatal(err)
		}
		r.write("usr/local", "", 0o644)
		r.good([]string{"the binary goes to /opt/bin"})
		r.wantMode("opt/bin/limpet", 0o755)
	})
}

// What curl pipes may be cut anywhere: nothing may run then.
func TestCutScriptDoesNothing(t *testing.T) {
	forShells(t, "systemd", func(r *root) {
		script := r.read("install.sh")
		before := r.tree()
		for i := 1; i < len(script)-len("main \"$@\"\n"); i += len(script) / 40 {
			r.write("install.sh", script[:i], 0o755)
			if out, _ := r.run(); strings.Contains(out, "*") {
				r.Errorf("cut after %d bytes: %s", i, out)
			}
		}
		r.write("install.sh", script, 0o755)
		r.same(before)
	})
}
