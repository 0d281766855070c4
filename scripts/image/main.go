// Command image makes the container image of limpet as the Dockerfile says, without
// docker:
//
//	image -version V -commit C -out DIR [-dockerfile FILE] [-repository NAME] ARCH=BINARY…
//
// It writes DIR/context, which docker can build from as well; DIR/limpet-image-ARCH.tar
// for docker load; and DIR/oci, an OCI layout with all architectures. The same inputs
// give the same bytes; the time is SOURCE_DATE_EPOCH (seconds since 1970; default 0).
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	var b builder
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	dockerfile := flags.String("dockerfile", "Dockerfile", "what the image is made by")
	repository := flags.String("repository", "limpetio/limpet", "name of the image without its tag, which is the version")
	out := flags.String("out", "", "directory to write")
	flags.StringVar(&b.version, "version", "", "version of limpet")
	flags.StringVar(&b.commit, "commit", "unknown", "commit that it was built from")
	flags.IntVar(&b.level, "level", 6, "level of gzip")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if b.version == "" || *out == "" || flags.NArg() == 0 {
		return errors.New("-version, -out and at least one ARCH=BINARY are needed")
	}
	if err := gzipLevel(b.level); err != nil {
		return err
	}
	text, err := os.ReadFile(*dockerfile)
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt("0"+os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	if b.tag, err = imageTag(*repository, b.version); err != nil {
		return err
	}
	b.dockerfile, b.created, b.context = string(text), time.Unix(seconds, 0).UTC(), filepath.Join(*out, "context")
	var archs []string
	for _, arg := range flags.Args() {
		arch, binary, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not ARCH=BINARY", arg)
		}
		if err := stage(filepath.Join(b.context, arch), binary); err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		archs = append(archs, arch)
	}
	if err := b.write(*out, archs); err != nil {
		return err
	}
	for _, arch := range archs {
		file := filepath.Join(*out, "limpet-image-"+arch+".tar")
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		fmt.Printf("%s %s: %.1f MB\n", b.tag, file, float64(info.Size())/1e6)
	}
	return nil
}
