package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/release"
	"github.com/limpetio/limpet/internal/version"
)

// verifyCommand lets a limpet that is installed, and so trusted, vouch for the files
// of another release. install.sh uses it; people may.
func (a *App) verifyCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:        "verify",
		Usage:       "Check the signature of a release's checksums, and files against them",
		Description: "SUMS is the file sha256sums of a release, with sha256sums.minisig beside it. Each FILE must be listed there by its base name. Exits with 1 when anything does not match.",
		ArgsUsage:   "SUMS [FILE…]",
		Flags: []cli.Flag{&ownFlag{
			StringFlag: &cli.StringFlag{Name: "public-key", Value: version.PublicKey, Usage: "Minisign public key; by default the one that this binary was built with."},
			value:      "KEY",
		}},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usagef(c, "name the file with the checksums")
			}
			return failed(c, a.verify(c.String("public-key"), c.Args().First(), c.Args().Tail()))
		},
	},
		"A downloaded release", "limpet verify sha256sums limpet-amd64",
	)
}

func (a *App) verify(key, sumsFile string, files []string) error {
	data, err := os.ReadFile(sumsFile)
	if err != nil {
		return err
	}
	signature, err := os.ReadFile(sumsFile + ".minisig")
	if err != nil {
		return err
	}
	sums, err := release.Verify(data, signature, key)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := checkFile(sums, file); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(a.Stdout, "%s: signed, and %d files match\n", sumsFile, len(files))
	return err
}

func checkFile(sums release.Sums, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return sums.Check(filepath.Base(file), f)
}
