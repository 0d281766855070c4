package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/limpetio/limpet/internal/release"
)

// part is a file of an air-gap archive: data, or else the content of path.
type part struct {
	name string
	mode int64
	data []byte
	path string
}

// archive writes the air-gap archive of an architecture. What tells whether the rest
// may be believed comes first, the big binary last.
func (b *builder) archive(ctx context.Context, binary archBinary, small map[string][]byte) error {
	rest := []part{{name: release.InstallerFile, mode: 0o755, data: small[release.InstallerFile]}}
	images := slices.Clone(b.images)
	slices.Sort(images)
	for _, image := range images {
		rest = append(rest, part{name: "images/" + filepath.Base(image), mode: 0o644, path: image})
	}
	rest = append(rest, part{name: release.BinaryFile(binary.arch), mode: 0o755, path: binary.path})
	head := []part{{name: release.VersionFile, mode: 0o644, data: small[release.VersionFile]}}

	sums, err := sumParts(slices.Concat(head, rest))
	if err != nil {
		return err
	}
	head = append(head, part{name: release.SumsFile, mode: 0o644, data: sums}, part{name: release.SignatureFile, mode: 0o644, data: b.sign(sums)})

	to := filepath.Join(b.out, release.ArchiveFile(binary.arch))
	if err := b.compress(ctx, to+".part", slices.Concat(head, rest), "limpet-airgap-"+binary.arch); err != nil {
		return errors.Join(err, os.Remove(to+".part"))
	}
	return os.Rename(to+".part", to)
}

// sumParts is the content of sha256sums, sorted by name.
func sumParts(parts []part) ([]byte, error) {
	var lines []string
	for _, p := range parts {
		sum, err := p.sum()
		if err != nil {
			return nil, err
		}
		lines = append(lines, sum+"  "+p.name+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	return []byte(strings.Join(lines, "")), nil
}

func (p part) open() (io.ReadCloser, int64, error) {
	if p.path == "" {
		return io.NopCloser(bytes.NewReader(p.data)), int64(len(p.data)), nil
	}
	f, err := os.Open(p.path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// compress packs the parts below one directory. The window is 16 MiB, as in the
// payload: little memory to unpack. The number of threads does not change the bytes.
func (b *builder) compress(ctx context.Context, file string, parts []part, dir string) (err error) {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	cmd := exec.CommandContext(ctx, "zstd", "-q", fmt.Sprintf("-%d", b.level), "--long=24", "-T0", "-c")
	var complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start zstd (scripts/deps installs it): %w", err)
	}
	tarErr := errors.Join(b.writeTar(in, parts, dir), in.Close())
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("zstd: %w: %s", err, strings.TrimSpace(complaint.String()))
	}
	return tarErr
}

func (b *builder) writeTar(w io.Writer, parts []part, dir string) error {
	tw := tar.NewWriter(w)
	for _, name := range []string{dir + "/", dir + "/images/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: b.time, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if err := b.writePart(tw, p, dir); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return tw.Close()
}

func (b *builder) writePart(tw *tar.Writer, p part, dir string) error {
	r, size, err := p.open()
	if err != nil {
		return err
	}
	defer r.Close()
	header := &tar.Header{Typeflag: tar.TypeReg, Name: path.Join(dir, p.name), Mode: p.mode, Size: size, ModTime: b.time, Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(tw, r)
	return err
}

func (p part) sum() (string, error) {
	if p.path != "" {
		sum, _, err := sumFile(p.path)
		return sum, err
	}
	sum := sha256.Sum256(p.data)
	return hex.EncodeToString(sum[:]), nil
}
