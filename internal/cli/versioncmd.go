package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/version"
)

func (a *App) versionCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "version",
		Usage: "Print the versions of limpet and of what is compiled in",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			format, err := chosen(c, "output")
			if err != nil {
				return err
			}
			return failed(c, a.printVersion(Format(format)))
		},
	},
		"For a script", "limpet version -o json",
	)
}

func (a *App) printVersion(format Format) error {
	info := version.Get()
	if format == JSON {
		enc := json.NewEncoder(a.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(info)
	}
	commit := ""
	if info.Commit != "" {
		commit = " (" + info.Commit + ")"
	}
	fmt.Fprintf(a.Stdout, "limpet %s%s\n", info.Version, commit)
	fmt.Fprintf(a.Stdout, "kubernetes %s\n", info.KubernetesVersion)
	for _, name := range slices.Sorted(maps.Keys(info.Components)) {
		fmt.Fprintf(a.Stdout, "%s %s\n", name, info.Components[name])
	}
	_, err := fmt.Fprintf(a.Stdout, "%s %s\n", info.GoVersion, info.Platform)
	return err
}
