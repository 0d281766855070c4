package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Users of the images; nobody's number is that of distroless images.
const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/:/bin/sh\n"
	group  = "root:x:0:\nnonroot:x:65532:\n"
)

// image is one test image to be.
type image struct {
	ref    string // name with tag
	file   string // base name of the archive
	root   rootfs
	config v1.Config
}

// testImages are all images of the tests, from two static binaries.
func testImages(busybox, httpd string) ([]image, error) {
	box, err := busyboxImage(busybox)
	if err != nil {
		return nil, err
	}
	images := []image{box}
	server, err := readStatic(httpd)
	if err != nil {
		return nil, err
	}
	for _, version := range []string{"1", "2"} {
		images = append(images, httpdImage(server, version))
	}
	return images, nil
}

// busyboxImage is a shell environment: every applet of busybox in /bin. (Debian
// 12's `wget -T` crashes; tests say `timeout 5 wget -qO- URL`.)
func busyboxImage(binary string) (image, error) {
	data, err := readStatic(binary)
	if err != nil {
		return image{}, fmt.Errorf("%w (it is in Debian's package busybox-static)", err)
	}
	list, err := exec.Command(binary, "--list").Output()
	if err != nil {
		return image{}, fmt.Errorf("list applets of %s: %w", binary, err)
	}
	root := baseRoot()
	root.file("bin/busybox", 0o755, data)
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			root.symlink("bin/"+applet, "busybox")
		}
	}
	root.dir("root", 0o700)
	root.dir("home", 0o755)
	root.dir("var/log", 0o755)
	return image{
		ref: "limpet.io/test/busybox:1", file: "busybox-1.tar", root: root,
		config: v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}, WorkingDir: "/"},
	}, nil
}

// httpdImage is the test server alone, as a user other than root. Its answers
// carry version, so that a rolling update can be seen from outside.
func httpdImage(binary []byte, version string) image {
	root := baseRoot()
	root.file("httpd", 0o755, binary)
	return image{
		ref: "limpet.io/test/httpd:" + version, file: "httpd-" + version + ".tar", root: root,
		config: v1.Config{
			Env:          []string{"PATH=/", "HTTPD_VERSION=" + version},
			Entrypoint:   []string{"/httpd"},
			User:         "65532:65532",
			WorkingDir:   "/",
			ExposedPorts: map[string]struct{}{"8080/tcp": {}, "8080/udp": {}},
		},
	}
}

func baseRoot() rootfs {
	root := rootfs{}
	root.file("etc/passwd", 0o644, []byte(passwd))
	root.file("etc/group", 0o644, []byte(group))
	root.file("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n"))
	root.dir("tmp", fs.ModeSticky|0o777)
	return root
}

// readStatic reads an executable and makes sure that it runs on its own in an
// empty root.
func readStatic(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read executable: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("executable %s: %w", path, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("executable %s: %w", path, errDynamic)
		}
	}
	return data, nil
}

var errDynamic = errors.New("is dynamically linked, a static one is needed")
