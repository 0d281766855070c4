package upgrade

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/release"
)

func code(err error) Code {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestCheckStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to string
		force    bool
		want     Code
	}{
		{"v1.37.2+limpet", "v1.37.2+limpet", false, 0},
		{"v1.37.2", "v1.37.0", false, 0},
		{"v1.37.2", "v1.38.0", false, 0},
		{"v1.37.2", "v1.39.0", false, WrongVersion},
		{"v1.37.2", "v1.36.9", false, WrongVersion},
		{"v1.37.2", "v1.36.9", true, 0},
		{"v1.37.2", "v2.0.0", false, WrongVersion},
		{"", "v1.37.2", false, 0},
		{"v1.37.2", "newest", false, WrongVersion},
	} {
		if got := code(checkStep(c.from, c.to, c.force)); got != c.want {
			t.Errorf("%s to %s, force %t: code %d, want %d", c.from, c.to, c.force, got, c.want)
		}
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]Code{
		"v1.2.3": 0, "/x/limpet-airgap-amd64.tar.zst": 0, "https://x/limpet-amd64?a=b": 0, "/x/release/": 0,
		"https://x/v1/limpet-arm64": WrongMachine, "./limpet-airgap-arm.tar.zst": WrongMachine, "limpet-riscv64": 0,
	} {
		if got := code(checkName(source, "amd64")); got != want {
			t.Errorf("%s: code %d, want %d", source, got, want)
		}
	}
}

func TestCheckELF(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkELF(self, runtime.GOARCH); err != nil {
		t.Error(err)
	}
	if err := checkELF(self, "mips"); code(err) != WrongMachine {
		t.Errorf("for another processor: %v", err)
	}
	script := t.TempDir() + "/x"
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkELF(script, runtime.GOARCH); err != nil {
		t.Errorf("no ELF file: %v", err)
	}
}

func TestParseIdentity(t *testing.T) {
	t.Parallel()
	id, err := parseIdentity([]byte(`{"version":"v0.2.0","kubernetesVersion":"v1.37.2+limpet.0.2.0","platform":"linux/amd64"}`))
	if err != nil || id.Version != "v0.2.0" {
		t.Errorf("%+v, %v", id, err)
	}
	for _, text := range []string{"", "limpet v0.2.0", "{}", `{"version":"v1"}`, `{"version":"v1","kubernetesVersion":"new"}`} {
		if _, err := parseIdentity([]byte(text)); err == nil {
			t.Errorf("%q is taken for limpet's answer", text)
		}
	}
}

func TestNeeds(t *testing.T) {
	t.Parallel()
	n := needs{Binary: 200 << 20, Payload: 40 << 20, Database: 100 << 20, SameDevice: true}
	if data, bin := n.space(); data != (200+40+250+64)<<20 || bin != 0 {
		t.Errorf("on one file system: %d, %d", data>>20, bin>>20)
	}
	n.SameDevice = false
	if data, bin := n.space(); data != (400+40+250+64)<<20 || bin != (200+64)<<20 {
		t.Errorf("on two: %d, %d", data>>20, bin>>20)
	}
}

func TestFetchError(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want Code
	}{
		{release.ErrNoKey, BadSignature}, {release.ErrSignature, BadSignature}, {release.ErrChecksum, BadSignature},
		{release.ErrNotListed, WrongMachine}, {os.ErrNotExist, NoSource},
	} {
		if got := fetchError(c.err); got.Code != c.want || !errors.Is(got, c.err) || strings.HasPrefix(got.Error(), ":") {
			t.Errorf("%v: %d %v", c.err, got.Code, got)
		}
	}
}
