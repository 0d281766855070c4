// Command package makes the files of a release out of built binaries:
//
//	package key FILE
//	    prints the public key of the minisign secret key (without a password) in FILE,
//	    and makes one there when there is none
//	package release -key FILE -version V -out DIR -root DIR [-image FILE]… ARCH=BINARY…
//	    writes the release; internal/release describes its files
//	package check -key PUBLIC-KEY -root DIR DIR
//	    checks a finished release, and tries to start its binaries
//
// The same inputs give the same bytes: files are sorted, and times are SOURCE_DATE_EPOCH
// (seconds since 1970; default 0).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/limpetio/limpet/internal/release"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == "key" {
		key, made, err := loadKey(args[1])
		if err != nil {
			return err
		}
		if made {
			fmt.Fprintf(os.Stderr, "package: made a development key in %s: who installs this release must trust it; set SIGNING_KEY for a real one\n", args[1])
		}
		fmt.Println(publicKey(key))
		return nil
	}
	if len(args) > 0 && args[0] == "release" {
		return runRelease(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "check" {
		return runCheck(ctx, args[1:])
	}
	return errors.New("usage: package key FILE | package release FLAGS ARCH=BINARY… | package check FLAGS DIR")
}

func runCheck(ctx context.Context, args []string) error {
	c := checker{log: os.Stdout}
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.StringVar(&c.key, "key", "", "public key")
	flags.StringVar(&c.root, "root", ".", "root of the source tree")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if c.key == "" || flags.NArg() != 1 {
		return errors.New("-key and one directory are needed")
	}
	c.dir = flags.Arg(0)
	if err := c.check(ctx); err != nil {
		return fmt.Errorf("%s is not a good release: %w", c.dir, err)
	}
	return nil
}

func runRelease(ctx context.Context, args []string) error {
	b := builder{log: os.Stdout}
	var images []string
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	keyFile := flags.String("key", "", "minisign secret key without a password")
	flags.StringVar(&b.version, "version", "", "version of the release")
	flags.StringVar(&b.out, "out", "", "directory to write")
	flags.StringVar(&b.root, "root", ".", "root of the source tree")
	flags.IntVar(&b.level, "level", 19, "level of zstd")
	flags.Func("image", "image archive for the air-gap archives (can be repeated)", func(file string) error {
		images = append(images, file)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := release.CheckVersion(b.version); err != nil {
		return err
	}
	if *keyFile == "" || b.out == "" || flags.NArg() == 0 {
		return errors.New("-key, -out and at least one ARCH=BINARY are needed")
	}
	var err error
	if b.key, _, err = loadKey(*keyFile); err != nil {
		return err
	}
	if b.time, err = sourceDate(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	b.images = images
	for _, arg := range flags.Args() {
		arch, binary, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not ARCH=BINARY", arg)
		}
		b.binaries = append(b.binaries, archBinary{arch: arch, path: binary})
	}
	return b.build(ctx)
}

func sourceDate(text string) (time.Time, error) {
	if text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}
