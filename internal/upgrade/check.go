package upgrade

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
)

// archInName is how releases name what is for one architecture.
var archInName = regexp.MustCompile(`^limpet(?:-airgap)?-(amd64|arm64|arm)(?:\.tar\.zst)?$`)

// checkName refuses a source that is named for another architecture, before
// anything is fetched.
func checkName(source, arch string) error {
	name, _, _ := strings.Cut(source, "?")
	m := archInName.FindStringSubmatch(path.Base(name))
	if m == nil || m[1] == arch {
		return nil
	}
	return refusal(WrongMachine, "Give the one for "+arch, "%s is for %s, and this machine is %s", source, m[1], arch)
}

// machines are the architectures of releases as ELF files name them.
func machines() map[elf.Machine]string {
	return map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_ARM: "arm"}
}

// checkELF refuses a program for another processor. What is no ELF file is
// judged by running it.
func checkELF(file, arch string) error {
	f, err := elf.Open(file)
	if err != nil {
		return nil //nolint:nilerr // no ELF file
	}
	defer f.Close()
	if is := machines()[f.Machine]; is != arch {
		if is == "" {
			is = f.Machine.String()
		}
		return refusal(WrongMachine, "Give the one for "+arch, "the binary is for %s, and this machine is %s", is, arch)
	}
	return nil
}

// identity is what a binary says of itself: `limpet version -o json`.
type identity struct {
	Version           string `json:"version"`
	KubernetesVersion string `json:"kubernetesVersion"`
	Platform          string `json:"platform"`
}

func parseIdentity(output []byte) (identity, error) {
	var id identity
	if err := json.Unmarshal(output, &id); err != nil {
		return identity{}, fmt.Errorf("its answer to `version -o json` is not that of a limpet: %w", err)
	}
	if id.Version == "" {
		return identity{}, fmt.Errorf("its answer to `version -o json` names no version")
	}
	if _, err := version.ParseSemantic(id.KubernetesVersion); err != nil {
		return identity{}, fmt.Errorf("its answer to `version -o json` names no version of Kubernetes: %w", err)
	}
	return id, nil
}

// checkStep refuses what Kubernetes does not support: to go back a minor version,
// as stored objects may be in a newer form, or to leave one out.
func checkStep(from, to string, force bool) error {
	if force {
		return nil
	}
	a, err := version.ParseSemantic(from)
	if err != nil {
		return nil //nolint:nilerr // an odd build of today is no reason to stay with it
	}
	b, err := version.ParseSemantic(to)
	if err != nil {
		return refusal(WrongVersion, "", "%q is no version of Kubernetes", to)
	}
	minorA, minorB := a.Major()*1000+a.Minor(), b.Major()*1000+b.Minor()
	switch {
	case minorB < minorA:
		return refusal(WrongVersion, "limpet rollback goes back with the data of before; --force goes back with the data of now",
			"it would go back from Kubernetes %d.%d to %d.%d, which may not understand what the newer one has stored", a.Major(), a.Minor(), b.Major(), b.Minor())
	case minorB > minorA+1:
		return refusal(WrongVersion, "Upgrade to the versions between first, one after the other; --force goes all the same",
			"it would go from Kubernetes %d.%d to %d.%d at once, and Kubernetes supports one minor version at a time", a.Major(), a.Minor(), b.Major(), b.Minor())
	}
	return nil
}

// needs is what an upgrade may write, in bytes.
type needs struct {
	Binary   int64 // size of the binary
	Payload  int64 // of the helper programs, unpacked
	Database int64 // of the datastore with its log; 0 without one
	// SameDevice: the installed binary and the data directory are on one file
	// system, so that links do for copies.
	SameDevice bool
}

// spareSpace stays free, for what runs meanwhile.
const spareSpace = 64 << 20

// space is what has to be free on the file systems of the data directory and of
// the installed binary. A snapshot is made of a copy of the database, half of
// which it may need, and a restore unpacks it again.
func (n needs) space() (data, bin int64) {
	data = n.Binary + n.Payload + n.Database*5/2 + spareSpace
	if n.SameDevice {
		return data, 0
	}
	return data + n.Binary, n.Binary + spareSpace // the kept one; the new one
}
