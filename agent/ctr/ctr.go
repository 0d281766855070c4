// Package ctr is containerd's own client, for looking into the containerd of
// this machine.
package ctr

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/urfave/cli/v3"

	"github.com/limpetio/limpet/agent/containerd"
)

// runDir is where limpet's sockets are.
const runDir = "/run/limpet"

// Run executes ctr with args (without the program's name) against the containerd
// of this machine and the namespace of the pods. As usual,
// CONTAINERD_ADDRESS and CONTAINERD_NAMESPACE, and --address and --namespace
// above them, choose others.
func Run(ctx context.Context, args []string) error {
	return command().Run(ctx, append([]string{"ctr"}, args...))
}

func command() *cli.Command {
	cmd := app.New()
	for _, flag := range cmd.Flags {
		f, ok := flag.(*cli.StringFlag)
		if !ok {
			continue
		}
		switch {
		case slices.Contains(f.Names(), "address"):
			f.Value = containerd.SocketPath(runDir)
		case slices.Contains(f.Names(), "namespace"):
			f.Value = containerd.Namespace
		}
	}
	return cmd
}
