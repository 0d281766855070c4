package server

import (
	"context"
	"errors"

	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/upstream"
)

const schedulerName = "kube-scheduler"

// scheduler runs kube-scheduler, without leader election for the same reasons
// as the controller-manager.
type scheduler struct {
	opts *options.Options
}

func newScheduler(args []string) (*scheduler, error) {
	opts := options.NewOptions()
	if err := upstream.Parse(schedulerName, *opts.Flags, args); err != nil {
		return nil, err
	}
	return &scheduler{opts: opts}, nil
}

func schedulerArgs(cfg config.Server, c *Certificates) []string {
	return upstream.Merge([]string{
		"kubeconfig=" + c.Scheduler.Kubeconfig,
		"secure-port=0",
		"leader-elect=false",
		"profiling=false",
	}, cfg.KubeSchedulerArgs)
}

func (s *scheduler) Name() string { return schedulerName }

func (s *scheduler) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, schedulerName)
	cfg, sched, err := app.Setup(ctx, s.opts)
	if err != nil {
		return err
	}
	ready()
	if err := app.Run(ctx, cfg, sched); err != nil && ctx.Err() == nil {
		return err
	}
	if ctx.Err() == nil {
		return errors.New("stopped by itself")
	}
	return nil
}
