package payload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// errAbsent is returned by quickCheck when there is no directory at all.
var errAbsent = errors.New("not unpacked yet")

// quickCheck compares the directory at root with its manifest: the manifest's
// sha256, and type, mode and size of every file. It reads no file but the
// manifest: a power cut leaves files short or empty, and that is what it finds.
// Flipped bits are found by fullCheck.
func quickCheck(_ context.Context, root, manifestSum string) error {
	_, err := loadAndCheck(root, manifestSum)
	return err
}

func loadAndCheck(root, manifestSum string) (manifest, error) {
	if _, err := os.Lstat(root); errors.Is(err, fs.ErrNotExist) {
		return manifest{}, errAbsent
	}
	data, err := readLimited(filepath.Join(root, manifestName), maxManifestBytes)
	if err != nil {
		return manifest{}, err
	}
	m, err := checkedManifest(data, manifestSum)
	if err != nil {
		return manifest{}, err
	}
	for _, want := range m.files {
		info, err := os.Lstat(filepath.Join(root, want.path))
		if err != nil {
			return manifest{}, err
		}
		if info.Mode() != want.mode || info.Size() != want.size {
			return manifest{}, fmt.Errorf("%s has mode %v and %d bytes instead of %v and %d",
				want.path, info.Mode(), info.Size(), want.mode, want.size)
		}
	}
	return m, nil
}

// fullCheck is quickCheck and compares the content of every file too.
func fullCheck(ctx context.Context, root, manifestSum string) error {
	m, err := loadAndCheck(root, manifestSum)
	if err != nil {
		return err
	}
	for _, want := range m.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := sumFile(filepath.Join(root, want.path))
		if err != nil {
			return err
		}
		if got != want.sum {
			return fmt.Errorf("%s has sha256 %s instead of %s", want.path, got, want.sum)
		}
	}
	return nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}
