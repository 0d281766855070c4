// Command bench measures limpet from outside, on one node in namespaces of its
// own (scripts/cluster). Every command but the last starts and removes its own
// cluster:
//
//	bench start       from exec to /readyz, node Ready, DNS, first pod Running
//	bench idle        memory, CPU, bytes written, wake-ups; before and after load
//	bench api         operations per second and latencies; a Deployment of 30 pods
//	bench agent       an agent: from exec to Ready, first pod; idle memory and CPU
//	bench datastore   the datastore alone, beside kine and etcd: see datastore.go
//
// It prints a table for people and one line "result NAME VALUE UNIT" for each
// figure. Figures of k3s stand beside ours with their ratio; see peer.go for
// where they come from.
//
// The program works from the machine but inside the node's network namespace,
// so that nothing relays what is measured. scripts/bench/{start,idle,api,agent,datastore}
// build and run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// benchmark is one command. Its figures go into the report.
type benchmark interface {
	// flags declares the command's options.
	flags(fs *flag.FlagSet)
	run(ctx context.Context, c *cluster, r *report) error
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "datastore" { // it needs no cluster
		return benchDatastore(ctx, args[1:], stdout, stderr)
	}
	commands := map[string]benchmark{"start": &startBench{}, "idle": &idleBench{}, "api": &apiBench{}, "agent": &agentBench{}}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: bench start|idle|api|agent|datastore [OPTIONS] [-- SERVER FLAGS]")
	}
	name := args[0]
	fs := flag.NewFlagSet("bench "+name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprintf(stderr, "usage: bench %s [OPTIONS] [-- OPTIONS OF `cluster up` AND FLAGS OF `limpet server`]\n", name)
		fs.PrintDefaults()
	}
	dir := fs.String("dir", filepath.Join(".run", "bench-"+name), "`directory` of the cluster; it is removed at the end")
	images := fs.String("images", filepath.Join(".cache", "images"), "`directory` of the test images")
	commands[name].flags(fs)
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	c, err := newCluster(*dir, *images, fs.Args(), stderr)
	if err != nil {
		return err
	}
	if err := c.down(ctx); err != nil { // what a crash may have left
		return err
	}
	r := &report{out: stdout}
	err = commands[name].run(ctx, c, r)
	if err != nil && ctx.Err() == nil {
		c.printLogTail()
	}
	// The cluster goes whatever happened, also after Ctrl-C.
	return errors.Join(err, c.down(context.WithoutCancel(ctx)))
}
