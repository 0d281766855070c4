package images

import (
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func TestKindOf(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]kind{
		"a.tar": archiveFile, "a.tar.gz": archiveFile, "a.tgz": archiveFile, "a.tar.zst": archiveFile, "a.tar.bz2": archiveFile,
		"list.txt": listFile, "a.tar.part": other, ".a.tar": other, cacheName: other, "README.md": other, "tar": other,
	} {
		if got := kindOf(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	const text = "not really a tar, but long enough"
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"plain": []byte(text), "gzip": gz.Bytes(), "zstd": enc.EncodeAll([]byte(text), nil)} {
		r, err := decompress(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != text {
			t.Errorf("%s: %s, %v", name, got, err)
		}
		if name == "plain" {
			continue
		}
		if r, err = decompress(bytes.NewReader(data[:len(data)-3])); err == nil {
			_, err = io.ReadAll(r)
		}
		if err == nil {
			t.Errorf("%s: a file that was cut off is taken for whole", name)
		}
	}
	if _, err := decompress(strings.NewReader("")); err == nil {
		t.Error("an empty file is taken for an archive")
	}
}

func TestParseList(t *testing.T) {
	t.Parallel()
	refs, err := parseList(strings.NewReader("# a list\n\nbusybox\nghcr.io/a/b:1  # with a comment\r\n"))
	if want := []string{"docker.io/library/busybox:latest", "ghcr.io/a/b:1"}; err != nil || !reflect.DeepEqual(refs, want) {
		t.Errorf("got %v, %v", refs, err)
	}
	if _, err := parseList(strings.NewReader("ok\nNot An Image\n")); err == nil || !strings.Contains(err.Error(), `line 2: "Not An Image"`) {
		t.Errorf("got %v", err)
	}
}

func TestFullName(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"busybox:1": "docker.io/library/busybox:1", "a.io/b": "a.io/b:latest", "latest": "", "UPPER:1": "", "a.io/b:1": "a.io/b:1",
	} {
		if got := fullName(in); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}

func FuzzParseList(f *testing.F) {
	f.Add("busybox\n# x\nghcr.io/a/b:1")
	f.Fuzz(func(t *testing.T, s string) {
		refs, err := parseList(strings.NewReader(s))
		if err != nil {
			return
		}
		again, err := parseList(strings.NewReader(strings.Join(refs, "\n")))
		if err != nil || len(again) != len(refs) {
			t.Fatalf("%q does not survive: %v, %v", refs, again, err)
		}
	})
}
