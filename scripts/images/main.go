// Command images builds the container images of the tests as docker-archive
// files, without a registry and without any container tool: a busybox from
// Debian's static binary and the HTTP server of ./httpd in two versions.
//
// The archives are deterministic: the same inputs give the same bytes, and a
// file that would not change is not written again.
//
// Usage: images -busybox FILE -httpd FILE -out DIR (scripts/images/build runs it)
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

func main() {
	busybox := flag.String("busybox", "/bin/busybox", "statically linked busybox `file`")
	httpd := flag.String("httpd", "", "statically linked httpd `file`")
	out := flag.String("out", "", "`directory` of the archives")
	flag.Parse()
	if *httpd == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*busybox, *httpd, *out); err != nil {
		slog.Error("build test images", "err", err)
		os.Exit(1)
	}
}

// run writes one archive for every test image into dir.
func run(busybox, httpd, dir string) error {
	images, err := testImages(busybox, httpd)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("create directory of the archives: %w", err)
	}
	for _, im := range images {
		path := filepath.Join(dir, im.file)
		wrote, err := writeArchive(path, im)
		if err != nil {
			return fmt.Errorf("image %s: %w", im.ref, err)
		}
		slog.Info("image", "ref", im.ref, "archive", path, "changed", wrote)
	}
	return nil
}
