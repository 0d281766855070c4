package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aead.dev/minisign"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/release"
)

// keyLine is what the repository's install.sh has where a released one has its key.
const keyLine = "RELEASE_KEY=''"

type archBinary struct{ arch, path string }

// builder makes the files of one release.
type builder struct {
	key      minisign.PrivateKey
	version  string
	root     string // of the source tree
	out      string
	level    int // of zstd
	time     time.Time
	images   []string
	binaries []archBinary
	log      io.Writer // sizes go here
}

// build writes everything but the signature first, so that a run that was broken
// off leaves nothing that looks like a release.
func (b *builder) build(ctx context.Context) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	for _, name := range []string{release.SumsFile, release.SignatureFile} {
		if err := os.RemoveAll(filepath.Join(b.out, name)); err != nil {
			return err
		}
	}
	script, err := os.ReadFile(filepath.Join(b.root, release.InstallerFile))
	if err != nil {
		return err
	}
	if script, err = stampKey(script, publicKey(b.key)); err != nil {
		return err
	}
	small := map[string][]byte{release.InstallerFile: script, release.VersionFile: []byte(b.version + "\n")}
	names := []string{release.InstallerFile, release.VersionFile}
	for _, binary := range b.binaries {
		made, err := b.buildArch(ctx, binary, small)
		if err != nil {
			return fmt.Errorf("%s: %w", binary.arch, err)
		}
		names = append(names, made...)
	}
	for name, data := range small {
		mode := os.FileMode(0o644)
		if name == release.InstallerFile {
			mode = 0o755
		}
		if err := atomicfile.Write(filepath.Join(b.out, name), data, mode); err != nil {
			return err
		}
	}
	return b.finish(names)
}

// finish writes what makes the files a release, and the channel's file.
func (b *builder) finish(names []string) error {
	slices.Sort(names)
	var sums bytes.Buffer
	for _, name := range names {
		sum, size, err := sumFile(filepath.Join(b.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n", sum, name)
		fmt.Fprintf(b.log, "  %-32s %7.1f MB\n", name, float64(size)/1e6)
	}
	for name, data := range map[string][]byte{
		release.ChannelFile:   []byte(b.version + "\n"),
		release.SumsFile:      sums.Bytes(),
		release.SignatureFile: b.sign(sums.Bytes()),
	} {
		if err := atomicfile.Write(filepath.Join(b.out, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sign makes the plain signature over the bytes (not over a hash of them): openssl
// can check that kind as well. The same sums and key give the same signature.
func (b *builder) sign(sums []byte) []byte {
	return minisign.SignWithComments(b.key, sums, "limpet "+b.version, "limpet release, key "+publicKey(b.key))
}

// buildArch writes binary, SBOM and air-gap archive, and returns their names.
func (b *builder) buildArch(ctx context.Context, binary archBinary, small map[string][]byte) ([]string, error) {
	name := release.BinaryFile(binary.arch)
	if err := copyFile(filepath.Join(b.out, name), binary.path, 0o755); err != nil {
		return nil, err
	}
	sbom, err := b.sbom(binary)
	if err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	sbomName := name + ".spdx.json"
	if err := atomicfile.Write(filepath.Join(b.out, sbomName), sbom, 0o644); err != nil {
		return nil, err
	}
	if err := b.archive(ctx, binary, small); err != nil {
		return nil, fmt.Errorf("air-gap archive: %w", err)
	}
	return []string{name, sbomName, release.ArchiveFile(binary.arch)}, nil
}

// stampKey writes the public key into the installer.
func stampKey(script []byte, key string) ([]byte, error) {
	if n := bytes.Count(script, []byte("\n"+keyLine+"\n")); n != 1 {
		return nil, fmt.Errorf("%s has the line %s %d times instead of once", release.InstallerFile, keyLine, n)
	}
	return bytes.Replace(script, []byte("\n"+keyLine+"\n"), []byte("\n"+strings.TrimSuffix(keyLine, "''")+"'"+key+"'\n"), 1), nil
}

func sumFile(path string) (sum string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	hash := sha256.New()
	size, err = io.Copy(hash, f)
	return hex.EncodeToString(hash.Sum(nil)), size, err
}

// copyFile replaces to by a copy of from, in one step.
func copyFile(to, from string, mode os.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	part := to + ".part"
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	for _, e := range []error{out.Chmod(mode), out.Close()} {
		if err == nil {
			err = e
		}
	}
	if err != nil {
		return err
	}
	return os.Rename(part, to)
}
