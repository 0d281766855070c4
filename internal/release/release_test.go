package release

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"aead.dev/minisign"
	"github.com/klauspost/compress/zstd"
)

// maker makes releases as `make package` does.
type maker struct {
	key    minisign.PrivateKey
	public string
}

func newMaker(t testing.TB) maker {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return maker{key: private, public: public.String()}
}

// sign adds the sums of files, and their signature, to files.
func (m maker) sign(files map[string]string) map[string]string {
	files = maps.Clone(files)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "%x  %s\n", sha256.Sum256([]byte(files[name])), name)
	}
	files[SumsFile] = b.String()
	files[SignatureFile] = string(minisign.Sign(m.key, []byte(b.String())))
	return files
}

// contents is a release of one architecture, with a binary too large for one read.
func contents(version string) map[string]string {
	return map[string]string{
		VersionFile:    version + "\n",
		"limpet-arm64": strings.Repeat("binary "+version, 20_000),
		InstallerFile:  "#!/bin/sh\n",
	}
}

// archive packs files, with those named first before all others.
func archive(t testing.TB, files map[string]string, first ...string) string {
	t.Helper()
	var packed bytes.Buffer
	zw, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(zw)
	names := slices.Sorted(maps.Keys(files))
	names = append(slices.Clone(first), slices.DeleteFunc(names, func(n string) bool { return slices.Contains(first, n) })...)
	for _, name := range names {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: "limpet-airgap-arm64/" + name, Mode: 0o644, Size: int64(len(files[name]))}
		if err := errors.Join(tw.WriteHeader(header), writeString(tw, files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

func writeString(w *tar.Writer, s string) error {
	_, err := w.Write([]byte(s))
	return err
}

func TestVerify(t *testing.T) {
	t.Parallel()
	m, other := newMaker(t), newMaker(t)
	files := m.sign(contents("v1.2.3"))
	sums, signature := []byte(files[SumsFile]), []byte(files[SignatureFile])

	got, err := Verify(sums, signature, m.public)
	if err != nil || len(got) != 3 {
		t.Fatalf("%v, %v", got, err)
	}
	if err := got.Check("limpet-arm64", strings.NewReader(files["limpet-arm64"])); err != nil {
		t.Error(err)
	}
	if err := got.Check("limpet-arm64", strings.NewReader(files["limpet-arm64"]+"x")); !errors.Is(err, ErrChecksum) {
		t.Errorf("a longer file: %v", err)
	}
	if err := got.Check("other", strings.NewReader("")); !errors.Is(err, ErrNotListed) {
		t.Errorf("a file that is not listed: %v", err)
	}

	whole, err := m.key.Public().(minisign.PublicKey).MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(sums, signature, string(whole)); err != nil {
		t.Errorf("with a key file: %v", err)
	}
	for name, c := range map[string]struct {
		sums, signature []byte
		key             string
		want            error
	}{
		"no key":            {sums, signature, " ", ErrNoKey},
		"another key":       {sums, signature, other.public, ErrSignature},
		"changed sums":      {append(slices.Clone(sums), '\n'), signature, m.public, ErrSignature},
		"no signature":      {sums, nil, m.public, ErrSignature},
		"cut signature":     {sums, signature[:len(signature)/2], m.public, ErrSignature},
		"signed by another": {sums, []byte(other.sign(contents("v1.2.3"))[SignatureFile]), m.public, ErrSignature},
	} {
		if got, err := Verify(c.sums, c.signature, c.key); !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	if _, err := Verify(sums, signature, "RWnonsense"); err == nil || errors.Is(err, ErrSignature) {
		t.Errorf("a key that is none: %v", err)
	}
}

// The signature is the plain one over the bytes, which openssl can check too.
func TestSignatureIsOverTheBytes(t *testing.T) {
	t.Parallel()
	m := newMaker(t)
	files := m.sign(contents("v1.2.3"))
	var s minisign.Signature
	if err := s.UnmarshalText([]byte(files[SignatureFile])); err != nil || s.Algorithm != minisign.EdDSA {
		t.Fatalf("algorithm %x, %v", s.Algorithm, err)
	}
}

func TestParseSumsRefuses(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	for _, bad := range []string{
		"", "\n", sum, sum + " x", sum + "  ", sum[2:] + "  x", "zz" + sum[2:] + "  x",
		sum + "  /etc/passwd", sum + "  ../x", sum + "  a/../b", sum + "  .", sum + "  ..", sum + `  a\b`,
		sum + "  x\n" + sum + "  x", sum + "\tx",
	} {
		if got, err := ParseSums([]byte(bad)); err == nil {
			t.Errorf("%q gives %v", bad, got)
		}
	}
	got, err := ParseSums([]byte(sum + " *limpet-amd64\n" + sum + "  images/a b.tar\n"))
	if err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func FuzzParseSums(f *testing.F) {
	f.Add([]byte(strings.Repeat("ab", 32) + "  limpet-amd64\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sums, err := ParseSums(data)
		for name := range sums {
			if !localName(name) || err != nil {
				t.Errorf("%q, %v", name, err)
			}
		}
	})
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "1.2.3", "v1.2", "v1.2.3/x", "v1.2.3 ", "latest", "../v1.2.3", "v01.2.3"} {
		if CheckVersion(bad) == nil {
			t.Errorf("%q is taken for a version", bad)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"v1.2.3", "v1.2.3", 0}, {"v1.2.3", "v1.2.10", -1}, {"v1.3.0", "v1.2.9", 1},
		{"v1.2.3-rc.1", "v1.2.3", -1}, {"v1.2.3-rc.2", "v1.2.3-rc.10", -1},
	} {
		if got, err := CompareVersions(c.a, c.b); got != c.want || err != nil {
			t.Errorf("%s, %s: %d, %v", c.a, c.b, got, err)
		}
	}
	if same, err := SameMinor("v1.2.3", "v1.2.9-rc.1"); !same || err != nil {
		t.Errorf("%v, %v", same, err)
	}
	if same, err := SameMinor("v1.2.3", "v1.3.3"); same || err != nil {
		t.Errorf("%v, %v", same, err)
	}
	if _, err := SameMinor("v1.2.3", "x"); err == nil {
		t.Error("no error for x")
	}
}
