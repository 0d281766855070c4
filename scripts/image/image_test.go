package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const repoDockerfile = "../../Dockerfile"

// made runs the program as scripts/image/build does, with a small binary.
func made(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "limpet")
	if err := os.WriteFile(binary, []byte("the binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "image")
	args := []string{"-dockerfile", repoDockerfile, "-version", "v1.2.3+4", "-commit", "abc", "-out", out, "amd64=" + binary, "arm=" + binary}
	if err := run(args); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImage(t *testing.T) {
	t.Parallel()
	out := made(t)
	tag, err := name.NewTag("limpetio/limpet:v1.2.3-4")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(filepath.Join(out, "limpet-image-arm.tar"), &tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm" || config.Variant != "v7" || config.Created.Unix() != 0 {
		t.Errorf("got %s %s of %v", config.Architecture, config.Variant, config.Created)
	}
	c := config.Config
	want := v1.Config{
		Entrypoint: []string{"/bin/limpet"}, Cmd: []string{"server"}, StopSignal: "SIGTERM",
		Env:          []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Volumes:      map[string]struct{}{"/var/lib/limpet": {}, "/var/lib/kubelet": {}, "/var/log": {}},
		ExposedPorts: map[string]struct{}{"6443/tcp": {}}, Labels: c.Labels,
	}
	if !reflect.DeepEqual(c, want) || c.Labels["org.opencontainers.image.version"] != "v1.2.3+4" || c.Labels["org.opencontainers.image.revision"] != "abc" {
		t.Errorf("got %+v", c)
	}
	entries := content(t, img)
	for name, mode := range map[string]string{
		"bin/limpet": "-rwxr-xr-x", "bin/kubectl": "Lrwxrwxrwx", "bin/ctr": "Lrwxrwxrwx", "tmp/": "dtrwxrwxrwx", "root/": "drwx------",
		"run/": "drwxr-xr-x", "var/run": "Lrwxrwxrwx", "etc/passwd": "-rw-r--r--", "etc/ssl/certs/ca-certificates.crt": "-rw-r--r--",
	} {
		if h := entries[name]; h == nil || h.FileInfo().Mode().String() != mode || h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

func content(t *testing.T, img v1.Image) map[string]*tar.Header {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := map[string]*tar.Header{}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = h
	}
}

// TestLayout: one index for all architectures, with the name that containerd looks for.
func TestLayout(t *testing.T) {
	t.Parallel()
	p, err := layout.FromPath(filepath.Join(made(t), "oci"))
	if err != nil {
		t.Fatal(err)
	}
	top, err := p.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/limpetio/limpet:v1.2.3-4" {
		t.Fatalf("got %+v, %v", manifest.Manifests, err)
	}
	index, err := top.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	all, err := index.IndexManifest()
	if err != nil || len(all.Manifests) != 2 || all.Manifests[0].Platform.Architecture != "amd64" || all.Manifests[1].Platform.Architecture != "arm" {
		t.Fatalf("got %+v, %v", all, err)
	}
	img, err := index.Image(all.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil || m.Annotations["org.opencontainers.image.created"] != "1970-01-01T00:00:00Z" || m.Annotations["org.opencontainers.image.version"] != "v1.2.3+4" {
		t.Errorf("got %+v, %v", m, err)
	}
}

func TestSameBytes(t *testing.T) {
	t.Parallel()
	one, two := made(t), made(t)
	for _, file := range []string{"limpet-image-amd64.tar", "limpet-image-arm.tar", "oci/index.json"} {
		a, err := os.ReadFile(filepath.Join(one, file))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(two, file)); err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs from one run to the next: %v", file, err)
		}
	}
}

func TestAuthorities(t *testing.T) {
	t.Parallel()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authorities()) {
		t.Fatal("no certificates")
	}
	if n := bytes.Count(authorities(), []byte("BEGIN CERTIFICATE")); n < 100 {
		t.Errorf("only %d certificates", n)
	}
}

// TestUnknownInstructions: what docker would do and this program would not is an error.
func TestUnknownInstructions(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"FROM alpine\n", "FROM scratch\nRUN true\n", "FROM scratch\nUSER 1\n", "FROM scratch\nCOPY a /b\n", "FROM scratch\nCOPY a /\n",
		"FROM scratch\nCMD server\n", "FROM scratch\nVOLUME /a\n", "ARG A\nFROM scratch\n", "FROM scratch AS x\n", "FROM scratch\nHEALTHCHECK NONE\n", "FROM scratch\nENV A=b\n",
	} {
		if r, err := readDockerfile(text, nil); err == nil {
			t.Errorf("%q is taken: %+v", text, r)
		}
	}
	r, err := readDockerfile("# c\nFROM scratch\nARG A=1\nARG B\nLABEL x=\"$A\" \\\n  y=\"${B} b\"\nENV C=\"c d\"\n", map[string]string{"B": "2"})
	if err != nil || !reflect.DeepEqual(r.config.Labels, map[string]string{"x": "1", "y": "2 b"}) || strings.Join(r.config.Env, "|") != "C=c d" {
		t.Errorf("got %+v, %v", r.config, err)
	}
}

func TestBadArguments(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	for _, args := range [][]string{
		{}, {"-version", "v1", "-out", out}, {"-version", "v1", "-out", out, "amd64"}, {"-version", "v1", "-out", out, "-level", "0", "amd64=x"},
		{"-version", "v1", "-out", out, "-dockerfile", repoDockerfile, "amd64=/none"}, {"-version", "no tag", "-out", out, "-dockerfile", repoDockerfile, "amd64=x"},
	} {
		if err := run(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
