// Command mkpause packs the pause program as an image archive, without a registry.
//
//	mkpause -arch arm64 -ref limpet.io/pause:1 -o pause.tar path/to/pause
//
// The archive is an OCI image layout in a tar (what containerd imports) with a
// docker manifest.json beside it (what `docker load` reads). The same input gives
// the same bytes: no times, owners 0, fixed order.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mkpause:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("mkpause", flag.ContinueOnError)
	arch := flags.String("arch", "amd64", "architecture as Go names it: amd64, arm64 or arm")
	ref := flags.String("ref", "limpet.io/pause:1", "reference of the image")
	out := flags.String("o", "pause.tar", "archive to write")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("give the path of the pause executable, got %d arguments", flags.NArg())
	}
	program, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return fmt.Errorf("read program: %w", err)
	}
	archive, err := pack(*arch, *ref, program)
	if err != nil {
		return fmt.Errorf("pack image %s: %w", *ref, err)
	}
	if err := os.WriteFile(*out, archive, 0o644); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}
