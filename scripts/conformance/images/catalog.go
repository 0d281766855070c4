package main

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	upstream "k8s.io/kubernetes/test/utils/image"
)

// inputs are the files that the images are made of.
type inputs struct {
	bin     string // directory of the programs, from scripts/conformance/build
	debian  string // layer with Debian's packages, a gzipped tar
	busybox string // image archive of scripts/images
	sources string // test/images of the Kubernetes module
}

// image is one image to be: the layers of base, then one of files.
type image struct {
	id     upstream.ImageID // names it, in the version that the suite asks for
	base   v1.Image
	files  []entry
	config v1.Config
}

const (
	searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

	// A spec about image volumes looks for Alpine's name in this file of the image
	// kitten: it is how the spec knows that it sees the volume and not the container.
	kittenRelease = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12, in the place of Alpine Linux\"\n"

	nginxConf = `worker_processes 1;
error_log stderr;
events { worker_connections 256; }
http {
  access_log off;
  include mime.types;
  server { listen 80; root /usr/share/nginx/html; }
}
`
)

// catalog describes the images of every conformance spec. Upstream's stand on
// Alpine, these on Debian, whose packages are to be had everywhere; what specs run
// in them is there under the same names.
func catalog(in inputs) ([]image, error) {
	debian, err := debianImage(in.debian)
	if err != nil {
		return nil, err
	}
	agnhost, err := agnhostFiles(in)
	if err != nil {
		return nil, err
	}
	busybox, err := busyboxImage(in)
	if err != nil {
		return nil, err
	}
	images := []image{
		busybox,
		{id: upstream.GlibcDnsTesting, base: debian, config: v1.Config{Cmd: []string{"/bin/bash"}}},
		{id: upstream.NonRoot, base: debian, config: v1.Config{User: "1234", Cmd: []string{"/bin/bash"}}},
		{id: upstream.Agnhost, base: debian, files: agnhost, config: agnhostConfig("pause")},
		{id: upstream.AgnhostPrev, base: debian, files: agnhost, config: agnhostConfig("pause", "AGNHOST=previous")},
	}
	for id, env := range map[upstream.ImageID]string{upstream.Nginx: "NGINX=old", upstream.NginxNew: "NGINX=new"} {
		images = append(images, image{id: id, base: debian,
			files:  []entry{{path: "etc/nginx/nginx.conf", mode: 0o644, data: []byte(nginxConf)}},
			config: v1.Config{Env: []string{env}, Cmd: []string{"nginx", "-g", "daemon off;"}}})
	}
	pets, err := webImages(in, debian, agnhost)
	if err != nil {
		return nil, err
	}
	programs, err := programImages(in, debian)
	if err != nil {
		return nil, err
	}
	return slices.Concat(images, pets, programs), nil
}

// busyboxShell is busybox's sh, whose messages specs compare, but for an
// environment with names such as "data-1", which specs print: Debian's busybox
// drops those, and bash does not.
const busyboxShell = `#!/bin/bash
while IFS= read -rd '' entry; do
  [[ ${entry%%=*} != *[!A-Za-z0-9_]* ]] || exec /bin/bash --posix "$@"
done </proc/self/environ
exec -a "$0" /bin/busybox "$@"
`

// busyboxImage is that of the other tests with busyboxShell as its sh.
func busyboxImage(in inputs) (image, error) {
	box, err := tarball.ImageFromPath(in.busybox, nil)
	if err != nil {
		return image{}, fmt.Errorf("read busybox's archive: %w", err)
	}
	shell, err := program("bin/bash", 0o755, filepath.Join(in.bin, "bash-static"))
	if err != nil {
		return image{}, err
	}
	return image{id: upstream.BusyBox, base: box,
		files:  []entry{shell, {path: "bin/sh", mode: 0o755, data: []byte(busyboxShell)}},
		config: v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}}}, nil
}

// agnhostFiles is upstream's Dockerfile of agnhost above its packages and users.
func agnhostFiles(in inputs) ([]entry, error) {
	bin, err := program("agnhost", 0o755, filepath.Join(in.bin, "agnhost"))
	if err != nil {
		return nil, err
	}
	files := []entry{bin, {path: "agnhost-2", mode: 0o777, link: "agnhost"}, {path: "uploads/", mode: 0o755}}
	for _, name := range []string{"localhost.crt", "localhost.key"} {
		f, err := program(name, 0o644, filepath.Join(in.sources, "agnhost", "porter", name))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func agnhostConfig(command string, env ...string) v1.Config {
	return v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{command}, Env: env}
}

// webImages are agnhost as a web server for the files of the two pets.
func webImages(in inputs, debian v1.Image, agnhost []entry) ([]image, error) {
	var images []image
	for id, name := range map[upstream.ImageID]string{upstream.Kitten: "kitten", upstream.Nautilus: "nautilus"} {
		files, err := tree(filepath.Join(in.sources, name, "html"))
		if err != nil {
			return nil, err
		}
		files = append(files, entry{path: "usr/lib/os-release", mode: 0o644, data: []byte(kittenRelease)})
		images = append(images, image{id: id, base: debian, files: slices.Concat(agnhost, files), config: agnhostConfig("test-webserver")})
	}
	return images, nil
}

// programImages are those that run one program.
func programImages(in inputs, debian v1.Image) ([]image, error) {
	var images []image
	for _, p := range []struct {
		id     upstream.ImageID
		base   v1.Image
		path   string
		mode   int64
		name   string
		config v1.Config
	}{
		{upstream.Pause, empty.Image, "pause", 0o755, "pause", v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		{upstream.Nonewprivs, debian, "usr/local/bin/nnp", 0o755 | setuid | setgid, "nnp", v1.Config{Cmd: []string{"nnp"}}},
		{upstream.Etcd, debian, "usr/local/bin/etcd", 0o755, "etcd", v1.Config{}},
		{upstream.APIServer, debian, "sample-apiserver", 0o755, "sample-apiserver", v1.Config{Entrypoint: []string{"/sample-apiserver"}}},
	} {
		bin, err := program(p.path, p.mode, filepath.Join(in.bin, p.name))
		if err != nil {
			return nil, err
		}
		images = append(images, image{id: p.id, base: p.base, files: []entry{bin}, config: p.config})
	}
	return images, nil
}

// debianImage is an image with the one layer of Debian's packages.
func debianImage(file string) (v1.Image, error) {
	layer, err := tarball.LayerFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("read Debian's layer: %w", err)
	}
	return mutate.AppendLayers(empty.Image, layer)
}

// build puts the image together, for linux on this machine's architecture.
func (im image) build() (v1.Image, error) {
	img := im.base
	if len(im.files) > 0 {
		layer, err := pack(im.files)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, fmt.Errorf("append layer: %w", err)
		}
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", runtime.GOARCH, im.config
	if !slices.ContainsFunc(im.config.Env, func(e string) bool { return len(e) > 5 && e[:5] == "PATH=" }) {
		cf.Config.Env = append([]string{searchPath}, im.config.Env...)
	}
	return mutate.ConfigFile(img, cf)
}
