package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/limpetio/limpet/internal/release"
)

// target is what an executable for an architecture is.
type target struct {
	machine elf.Machine
	qemu    string // what starts it on another machine
}

func targetOf(arch string) (target, error) {
	switch arch {
	case "amd64":
		return target{elf.EM_X86_64, "qemu-x86_64-static"}, nil
	case "arm64":
		return target{elf.EM_AARCH64, "qemu-aarch64-static"}, nil
	case "arm":
		return target{elf.EM_ARM, "qemu-arm-static"}, nil
	}
	return target{}, fmt.Errorf("there is no limpet for %q", arch)
}

// checker looks at a finished release as those will who get it, with nothing but the
// public key.
type checker struct {
	dir, root string // of the release, of the source tree
	key       string
	log       io.Writer
}

func (c *checker) path(name string) string { return filepath.Join(c.dir, name) }

// check fails at the first thing that is not as it should be.
func (c *checker) check(ctx context.Context) error {
	sums, err := c.verify(ctx, c.dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	unlisted := map[string]bool{release.SumsFile: true, release.SignatureFile: true, release.ChannelFile: true}
	found := 0
	for _, e := range entries {
		if unlisted[e.Name()] {
			continue
		}
		found++
		sum, _, err := sumFile(c.path(e.Name()))
		if err != nil {
			return err
		}
		if sum != sums[e.Name()] {
			return fmt.Errorf("%s: the checksum is not the signed one", e.Name())
		}
	}
	if found != len(sums) {
		return fmt.Errorf("%s lists %d files, and there are %d", release.SumsFile, len(sums), found)
	}
	version, err := os.ReadFile(c.path(release.VersionFile))
	if err != nil {
		return err
	}
	checked := 0
	for _, arch := range []string{"amd64", "arm64", "arm"} {
		if _, there := sums[release.BinaryFile(arch)]; !there {
			continue
		}
		checked++
		how, err := c.checkArch(ctx, arch, strings.TrimSpace(string(version)), sums)
		if err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		fmt.Fprintf(c.log, "  %-5s checked: signature by openssl and limpet, binary (%s), payload, SBOM, air-gap archive\n", arch, how)
	}
	if checked == 0 {
		return errors.New("there is no binary in it")
	}
	return nil
}

// verify checks the signature in a directory with limpet's verifier and with openssl
// alone, as install.sh does.
func (c *checker) verify(ctx context.Context, dir string) (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, release.SumsFile))
	if err != nil {
		return nil, err
	}
	signature, err := os.ReadFile(filepath.Join(dir, release.SignatureFile))
	if err != nil {
		return nil, err
	}
	if _, err := release.Verify(data, signature, c.key); err != nil {
		return nil, err
	}
	if err := c.byOpenSSL(ctx, filepath.Join(dir, release.SumsFile), signature); err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  "); ok {
			sums[name] = sum
		}
	}
	return sums, nil
}

// byOpenSSL: a line of minisign is an algorithm (2 bytes), the number of the key (8), and
// the key (32) or the signature (64).
func (c *checker) byOpenSSL(ctx context.Context, sums string, minisig []byte) error {
	lines := strings.Split(string(minisig), "\n")
	if len(lines) < 2 {
		return errors.New("the signature has no second line")
	}
	signature, err := base64.StdEncoding.DecodeString(lines[1])
	key, keyErr := base64.StdEncoding.DecodeString(c.key)
	if err := errors.Join(err, keyErr); err != nil {
		return fmt.Errorf("signature or key: %w", err)
	}
	if len(signature) != 74 || len(key) != 42 {
		return fmt.Errorf("the signature (%d bytes) or the key (%d bytes) is none of minisign", len(signature), len(key))
	}
	tmp, err := os.MkdirTemp("", "limpet-check-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	der := append([]byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"), key[10:]...)
	keyFile, signatureFile := filepath.Join(tmp, "key"), filepath.Join(tmp, "signature")
	if err := errors.Join(os.WriteFile(keyFile, der, 0o600), os.WriteFile(signatureFile, signature[10:], 0o600)); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keyFile, "-keyform", "DER", "-rawin", "-in", sums, "-sigfile", signatureFile).CombinedOutput()
	if err != nil {
		return fmt.Errorf("openssl does not accept the signature: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// checkArch returns how the binary was tried.
func (c *checker) checkArch(ctx context.Context, arch, version string, sums map[string]string) (string, error) {
	want, err := targetOf(arch)
	if err != nil {
		return "", err
	}
	binary := c.path(release.BinaryFile(arch))
	if err := c.checkBinary(binary, arch, want); err != nil {
		return "", err
	}
	if err := checkSBOM(c.path(release.BinaryFile(arch)+".spdx.json"), sums[release.BinaryFile(arch)]); err != nil {
		return "", fmt.Errorf("SBOM: %w", err)
	}
	if err := c.checkArchive(ctx, arch, sums); err != nil {
		return "", fmt.Errorf("air-gap archive: %w", err)
	}
	return starts(ctx, binary, arch, version, want)
}

// checkBinary: a static executable of the architecture, with the payload of it.
func (c *checker) checkBinary(file, arch string, want target) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := checkELF(data, want.machine, true); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	payload, err := os.ReadFile(filepath.Join(c.root, "internal", "payload", "payload_linux_"+arch+".tar.zst"))
	if err != nil {
		return err
	}
	if !bytes.Contains(data, payload) {
		return errors.New("the payload of this source tree is not in the binary: build it again")
	}
	programs := 0
	err = eachFile(bytes.NewReader(payload), func(name string, content io.Reader) error {
		if !strings.HasPrefix(name, "bin/") && !strings.HasPrefix(name, "lib/") {
			return nil
		}
		programs++
		program, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		return checkELF(program, want.machine, strings.HasPrefix(name, "bin/"))
	})
	if err == nil && programs == 0 {
		err = errors.New("there is no program in it")
	}
	if err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	return nil
}

func checkELF(data []byte, machine elf.Machine, static bool) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Machine != machine {
		return fmt.Errorf("is for %s, not %s", f.Machine, machine)
	}
	for _, p := range f.Progs {
		if static && p.Type == elf.PT_INTERP {
			return errors.New("needs a dynamic linker")
		}
	}
	return nil
}

// checkArchive: the files of an air-gap archive are those of the release, and those that
// its own signed checksums list.
func (c *checker) checkArchive(ctx context.Context, arch string, sums map[string]string) error {
	f, err := os.Open(c.path(release.ArchiveFile(arch)))
	if err != nil {
		return err
	}
	defer f.Close()
	tmp, err := os.MkdirTemp("", "limpet-check-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	got := map[string]string{}
	err = eachFile(f, func(name string, content io.Reader) error {
		name, ok := strings.CutPrefix(name, "limpet-airgap-"+arch+"/")
		if !ok {
			return fmt.Errorf("%s is outside of its directory", name)
		}
		if name == release.SumsFile || name == release.SignatureFile {
			data, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(tmp, name), data, 0o600)
		}
		hash := sha256.New()
		_, err := io.Copy(hash, content)
		got[name] = hex.EncodeToString(hash.Sum(nil))
		return err
	})
	if err != nil {
		return err
	}
	inner, err := c.verify(ctx, tmp)
	if err != nil {
		return err
	}
	for name, sum := range inner {
		if got[name] != sum {
			return fmt.Errorf("%s is not what is signed", name)
		}
	}
	if len(got) != len(inner) {
		return fmt.Errorf("it has %d files, and %d are signed", len(got), len(inner))
	}
	for _, name := range []string{release.BinaryFile(arch), release.InstallerFile, release.VersionFile} {
		if got[name] != sums[name] {
			return fmt.Errorf("%s is not that of the release", name)
		}
	}
	return nil
}

// eachFile reads the regular files of a tar in zstd.
func eachFile(r io.Reader, f func(name string, content io.Reader) error) error {
	zr, err := zstd.NewReader(r)
	if err != nil {
		return err
	}
	defer zr.Close()
	tr := tar.NewReader(zr)
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := f(path.Clean(header.Name), tr); err != nil {
			return fmt.Errorf("%s: %w", header.Name, err)
		}
	}
}

// checkSBOM: a document of SPDX 2.3 that describes this binary, whose names are unique
// and whose relationships lead to something.
func checkSBOM(file, sum string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var doc spdxDocument
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&doc); err != nil {
		return err
	}
	if doc.Version != "SPDX-2.3" || doc.License != "CC0-1.0" || len(doc.Packages) < 2 {
		return fmt.Errorf("it is %q with %d packages", doc.Version, len(doc.Packages))
	}
	known := map[string]bool{doc.ID: true}
	for _, p := range doc.Packages {
		if known[p.ID] || p.Name == "" || p.Version == "" {
			return fmt.Errorf("package %q is there twice, or has no name or version", p.ID)
		}
		known[p.ID] = true
	}
	for _, r := range doc.Relationships {
		if !known[r.From] || !known[r.To] {
			return fmt.Errorf("%s %s %s: there is no such element", r.From, r.Type, r.To)
		}
	}
	if sums := doc.Packages[0].Checksums; len(sums) != 1 || sums[0].Value != sum {
		return errors.New("it describes another binary")
	}
	return nil
}

// starts runs the binary, natively or by qemu if that is here, and says which.
func starts(ctx context.Context, binary, arch, version string, want target) (string, error) {
	command, how := []string{binary}, "starts"
	if arch != runtime.GOARCH {
		if qemu, _ := exec.LookPath(want.qemu); qemu == "" {
			return "not started: no " + want.qemu, nil
		}
		command, how = []string{want.qemu, binary}, "starts in qemu"
	}
	out, err := exec.CommandContext(ctx, command[0], append(command[1:], "--version")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("it does not start: %w: %s", err, bytes.TrimSpace(out))
	}
	if text := string(out); !strings.HasPrefix(text, "limpet "+version+" ") || !strings.Contains(text, "linux/"+arch) {
		return "", fmt.Errorf("it says that it is %q", text)
	}
	return how, nil
}
