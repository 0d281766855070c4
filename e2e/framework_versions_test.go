package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// firstVersion is what versions link; others have the same length.
const firstVersion = "v0.7.1-e2e.a"

// goTool runs the go command in the repository and returns what it prints.
func goTool(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = env.repo
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false")
	out, err := cmd.Output()
	if err != nil {
		exit := (*exec.ExitError)(nil)
		_ = errors.As(err, &exit)
		t.Fatalf("go %s: %v: %s", strings.Join(args, " "), err, exit.Stderr)
	}
	return strings.TrimSpace(string(out))
}

// signingKey makes a key for releases, or reads the one that is there.
func signingKey(t *testing.T, file string) (public string) {
	t.Helper()
	return goTool(t, "run", "./scripts/package", "key", file)
}

// linkVersion links limpet as releases are: with the key that it trusts, and its
// version. What is compiled is in the build cache already.
func linkVersion(t *testing.T, publicKey string) (binary string) {
	t.Helper()
	const own, client = "github.com/limpetio/limpet/internal/version", "k8s.io/client-go/pkg/version"
	kubernetes := "v1.37.2+limpet." + strings.TrimPrefix(firstVersion, "v")
	binary = filepath.Join(t.TempDir(), "limpet")
	goTool(t, "build", "-o", binary, "-ldflags", strings.Join([]string{
		"-s -w", "-X", own + ".Version=" + firstVersion, "-X", own + ".PublicKey=" + publicKey, "-X", own + ".KubernetesVersion=" + kubernetes,
		"-X k8s.io/component-base/version.gitVersion=" + kubernetes, "-X", client + ".gitVersion=" + kubernetes,
		"-X k8s.io/component-base/version.gitMajor=1", "-X k8s.io/component-base/version.gitMinor=37",
	}, " "), ".")
	return binary
}

// otherVersion is the same program with another version stamped in, without linking
// it again: the stamp is a string that is in the binary as it is.
func otherVersion(t *testing.T, binary, version string) string {
	t.Helper()
	if len(version) != len(firstVersion) {
		t.Fatalf("%s is not as long as %s", version, firstVersion)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	old, stamp := []byte(strings.TrimPrefix(firstVersion, "v")), []byte(strings.TrimPrefix(version, "v"))
	if n := bytes.Count(data, old); n < 2 {
		t.Fatalf("%s is stamped with %s %d times", binary, firstVersion, n)
	}
	other := filepath.Join(t.TempDir(), "limpet")
	if err := os.WriteFile(other, bytes.ReplaceAll(data, old, stamp), 0o755); err != nil {
		t.Fatal(err)
	}
	return other
}

// program compiles one of a single file.
func program(t *testing.T, source string) (binary string) {
	t.Helper()
	dir := t.TempDir()
	file, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	goTool(t, "build", "-o", binary, file)
	return binary
}

// compiled is a program of one file, which stands in for a limpet that is broken.
func compiled(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	file, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "limpet")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}
