// Package release knows how a version of limpet is published: which files it
// has, how they are signed, and how to get a verified binary out of them.
//
// A release is a directory, on disk or behind a URL:
//
//	limpet-ARCH                  the binary, ARCH being amd64, arm64 or arm
//	limpet-airgap-ARCH.tar.zst   binary, installer and images in one file
//	limpet-ARCH.spdx.json        what the binary is made of
//	install.sh                   the installer
//	version                      one line: the version
//	sha256sums                   of all of these, as sha256sum prints them
//	sha256sums.minisig           the minisign signature of sha256sums
//
// The air-gap archive holds one directory with the binary, install.sh, version,
// images/ and a signed sha256sums of its own. Only what a verified sha256sums
// lists is ever believed; the version belongs to what is signed, so that an old
// release cannot be passed off as another one.
package release

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"aead.dev/minisign"
)

// Names of the files that every release has once.
const (
	SumsFile      = "sha256sums"
	SignatureFile = SumsFile + ".minisig"
	VersionFile   = "version"
	InstallerFile = "install.sh"
	// ChannelFile is what a channel has instead of a release: one line, the
	// version that it stands at. It is not signed.
	ChannelFile = "latest"
)

// BinaryFile is the name of the binary for an architecture (amd64, arm64, arm).
func BinaryFile(arch string) string { return "limpet-" + arch }

// ArchiveFile is the name of the air-gap archive for an architecture.
func ArchiveFile(arch string) string { return "limpet-airgap-" + arch + ".tar.zst" }

// Limits of what is read into memory before it is verified, in bytes.
const (
	maxSums      = 1 << 20
	maxSignature = 4 << 10
	maxVersion   = 256
)

// Errors that callers tell apart.
var (
	// ErrSignature: the sums are not signed by the key, or were changed since.
	ErrSignature = errors.New("the signature does not match")
	// ErrChecksum: a file is not the one that the signed sums list.
	ErrChecksum = errors.New("the checksum does not match")
	// ErrNoKey: the binary was built without the key of its releases, and none was given.
	ErrNoKey = errors.New("no public key to check signatures with")
	// ErrNotListed: the signed sums do not list a file.
	ErrNotListed = errors.New("not among the signed checksums")
)

// Sums are the checksums of a release's files by their names.
type Sums map[string][sha256.Size]byte

// Verify checks the minisign signature of the content of sha256sums and
// returns what it lists. The key is the base64 line of a minisign public key
// file, or the whole file. Nothing of sums is looked at before its signature.
func Verify(sums, signature []byte, publicKey string) (Sums, error) {
	key, err := parseKey(publicKey)
	if err != nil {
		return nil, err
	}
	if !minisign.Verify(key, sums, signature) {
		return nil, fmt.Errorf("%s: %w: not signed with the key %016X, or changed since", SumsFile, ErrSignature, key.ID())
	}
	return ParseSums(sums)
}

// CheckKey says what is wrong with a public key.
func CheckKey(publicKey string) error {
	_, err := parseKey(publicKey)
	return err
}

func parseKey(text string) (minisign.PublicKey, error) {
	var key minisign.PublicKey
	if strings.TrimSpace(text) == "" {
		return key, ErrNoKey
	}
	if err := key.UnmarshalText([]byte(strings.TrimSpace(text))); err != nil {
		return key, fmt.Errorf("public key %q: %w", text, err)
	}
	return key, nil
}

// ParseSums reads the format of sha256sum: 64 hexadecimal digits, two
// characters (the second * for binary), a name. Names are relative paths that
// stay inside; a name that comes twice is an error.
func ParseSums(data []byte) (Sums, error) {
	sums := Sums{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" {
			continue
		}
		hexSum, name, ok := strings.Cut(line, " ")
		if !ok || len(name) < 2 || (name[0] != ' ' && name[0] != '*') {
			return nil, fmt.Errorf("%s: line %d is not in the format of sha256sum", SumsFile, n)
		}
		name = name[1:]
		raw, err := hex.DecodeString(hexSum)
		if err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("%s: line %d has no sha256", SumsFile, n)
		}
		if !localName(name) {
			return nil, fmt.Errorf("%s: line %d names %q, which is no plain path inside the release", SumsFile, n, name)
		}
		if _, twice := sums[name]; twice {
			return nil, fmt.Errorf("%s: %s is listed twice", SumsFile, name)
		}
		sums[name] = [sha256.Size]byte(raw)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", SumsFile, err)
	}
	if len(sums) == 0 {
		return nil, fmt.Errorf("%s lists nothing", SumsFile)
	}
	return sums, nil
}

// localName: the name is clean, relative, and goes nowhere else.
func localName(name string) bool {
	return name != "." && !strings.ContainsAny(name, "\\\x00") && !path.IsAbs(name) &&
		path.Clean(name) == name && name != ".." && !strings.HasPrefix(name, "../")
}

// Check reads r to its end and compares it with the sum listed for name.
func (s Sums) Check(name string, r io.Reader) error { return s.copy(name, io.Discard, r) }

// copy is io.Copy of a listed file, whose content is compared at the end.
func (s Sums) copy(name string, w io.Writer, r io.Reader) error {
	want, ok := s[name]
	if !ok {
		return fmt.Errorf("%s: %w", name, ErrNotListed)
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, hash), r); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if got := [sha256.Size]byte(hash.Sum(nil)); got != want {
		return fmt.Errorf("%s: %w: it has %x, the release lists %x", name, ErrChecksum, got, want)
	}
	return nil
}

// readLimited reads all of r, which must not have more than limit bytes.
func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes, which is none of ours", name, limit)
	}
	return data, nil
}
