package cli

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"aead.dev/minisign"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, data string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file := write("limpet-amd64", "binary")
	text := fmt.Sprintf("%x  limpet-amd64\n", sha256.Sum256([]byte("binary")))
	sums := write("sha256sums", text)
	write("sha256sums.minisig", string(minisign.Sign(private, []byte(text))))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--public-key", public.String(), sums}, ExitOK, "signed, and 0 files match"},
		{[]string{"--public-key", public.String(), sums, file}, ExitOK, "signed, and 1 files match"},
		{[]string{"--public-key", public.String(), sums, sums}, ExitFailure, "not among the signed checksums"},
		{[]string{"--public-key", public.String(), file}, ExitFailure, "no such file"},
		{[]string{sums}, ExitFailure, "no public key"}, // tests are built without one
		{nil, ExitUsage, "name the file"},
	} {
		r := newRun(t)
		if code := r.run(append([]string{"verify"}, c.args...)...); code != c.code || !strings.Contains(r.stdout.String()+r.stderr.String(), c.want) {
			t.Errorf("%q: exit code %d, %s%s", c.args, code, r.stdout.String(), r.stderr.String())
		}
	}
	write("limpet-amd64", "evil")
	r := newRun(t)
	if code := r.run("verify", "--public-key", public.String(), sums, file); code != ExitFailure || !strings.Contains(r.stderr.String(), "checksum does not match") {
		t.Errorf("exit code %d, %s", code, r.stderr.String())
	}
}
