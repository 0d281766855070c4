package cli

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

// Examination is what `limpet doctor` is to look at.
type Examination struct {
	// File is the archive to write; empty: a name with the time of day.
	File string
	// LogFile is limpet's log, where that is not systemd's journal; may be empty.
	LogFile string
	DataDir string
	// Config is the effective configuration, without secrets; Problems is what
	// is wrong with it.
	Config     string
	Problems   error
	Kubeconfig string
	// Secrets are the values of the configuration that were left out of Config.
	Secrets []string
}

func (a *App) doctorCommand() *cli.Command {
	own := config.Select(config.OptionsFor(config.ForBoth), "config", "data-dir")
	return leaf(&cli.Command{
		Name:  "doctor",
		Usage: "Say what is wrong, and make an archive for whoever helps",
		Description: "Collects configuration, state, log, firewall rules, interfaces, events and pods, whatever of it can be had, also while limpet is stopped. " +
			"Passwords, tokens and keys are taken out. Changes nothing but the file that it writes.",
		Flags: append([]cli.Flag{
			&ownFlag{StringFlag: &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "The archive to write; the default is limpet-doctor-HOST-TIME.tar.zst in the working directory."}, value: "FILE"},
			&ownFlag{StringFlag: &cli.StringFlag{Name: "log", Usage: "Limpet's log, where systemd has none."}, value: "FILE"},
		}, config.Flags(own)...),
		Action: func(c *cli.Context) error {
			loaded, err := a.read(c, config.ForServer, own)
			e := Examination{
				File: c.String("output"), LogFile: c.String("log"), DataDir: loaded.Server.DataDir,
				Problems: err, Kubeconfig: loaded.Server.WriteKubeconfig, Secrets: secretsOf(loaded.Server),
			}
			if e.DataDir == "" {
				e.DataDir = config.DefaultDataDir
			}
			if e.Kubeconfig == "" {
				e.Kubeconfig = config.DefaultKubeconfig
			}
			var text strings.Builder
			if err := loaded.Print(&text); err != nil {
				return failed(c, err)
			}
			e.Config = text.String()
			return failed(c, a.Actions.Doctor(c.Context, a.Stdout, e))
		},
	}, "To a stick", "limpet doctor -o /media/stick/box-17.tar.zst")
}

// secretsOf are the values of a configuration that must not be seen.
func secretsOf(s config.Server) []string {
	b := s.Snapshots.Bucket
	return []string{s.Token, string(b.AccessKey), string(b.SecretKey), string(b.SessionToken)}
}
