package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/pki"
)

func TestDamagedServingCertificateGoes(t *testing.T) {
	t.Parallel()
	authority, err := pki.Open(t.TempDir(), pki.Options{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	issued, err := authority.Client.Ensure("leaf", pki.Leaf{CommonName: "x"})
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(issued.Cert)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		content []byte
		stays   bool
	}{"good": {good, true}, "empty": {nil, false}, "torn": {good[:len(good)/2], false}} {
		dir := t.TempDir()
		dated := filepath.Join(dir, "kubelet-server-2026-11-26-00-00-00.pem")
		current := filepath.Join(dir, "kubelet-server-current.pem")
		if err := os.WriteFile(dated, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(dated, current); err != nil {
			t.Fatal(err)
		}
		for range 2 { // and nothing is there the second time
			if err := dropDamagedServing(dir); err != nil {
				t.Fatal(err)
			}
		}
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if (len(left) == 2) != tt.stays || !tt.stays && len(left) != 0 {
			t.Errorf("%s: %d files are left", name, len(left))
		}
	}
}
