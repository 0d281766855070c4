package agent

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/limpetio/limpet/agent/join"
	joincfg "github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/restart"
)

const settingsName = "settings"

// settings follows the cluster's settings: it keeps the newest for a start
// without a server, and has the process begin anew when they concern what runs.
type settings struct {
	restConfig func() (*rest.Config, error)
	files      join.Files
	running    joincfg.Config
	log        *slog.Logger
}

// Name implements component.Component.
func (s *settings) Name() string { return settingsName }

// Run watches the ConfigMap until ctx is done. It returns a *restart.Needed
// when the node does not run by the settings any more.
func (s *settings) Run(ctx context.Context, ready func()) error {
	cfg, err := s.restConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := make(chan *corev1.ConfigMap, 1)
	newest := func(obj any) {
		if cm, ok := obj.(*corev1.ConfigMap); ok {
			select { // the one that nobody has looked at yet is out of date
			case <-changed:
			default:
			}
			changed <- cm
		}
	}
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(joincfg.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, joincfg.Name).String()
		})).Core().V1().ConfigMaps().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: newest, UpdateFunc: func(_, obj any) { newest(obj) },
	}); err != nil {
		return fmt.Errorf("watch settings: %w", err)
	}
	go informer.RunWithContext(ctx)
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case cm := <-changed:
			if err := s.take(cm); err != nil {
				return err
			}
		}
	}
}

// take keeps new settings. What a server has published, it has validated: what
// cannot be read here comes from a newer one, and the node goes on with what it has.
func (s *settings) take(cm *corev1.ConfigMap) error {
	next, err := joincfg.Parse([]byte(cm.Data[joincfg.Key]))
	if err != nil {
		s.log.Warn("the cluster's new settings cannot be read; this node goes on with those it has", "error", err)
		return nil
	}
	changed, err := s.files.SaveSettings(next)
	if err != nil {
		// A start anew would begin with the old ones again, and so on.
		s.log.Warn("the cluster's new settings cannot be kept; this node goes on with those it has", "error", err)
		return nil
	}
	if !changed {
		return nil
	}
	if why := s.running.Differs(next); why != "" {
		return &restart.Needed{Reason: "the cluster's settings have changed: " + why}
	}
	return nil
}
