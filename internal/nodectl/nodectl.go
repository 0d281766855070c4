// Package nodectl is what `limpet node` does, on the machine of a server and
// through its API.
package nodectl

import (
	"context"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/localserver"
	"github.com/limpetio/limpet/internal/noderecord"
)

// patience bounds each request: the server may be starting.
const patience = 30 * time.Second

// serverRole is on the Node of a server, where its kubelet cannot put it.
const serverRole = "node-role.kubernetes.io/control-plane"

// Control manages the nodes of the server that has this configuration.
type Control struct {
	Config config.Server
	Out    io.Writer
}

// session is a connection to the API of this machine's server.
type session struct {
	out    io.Writer
	client kubernetes.Interface
	config *rest.Config
}

// connect finds the server of this machine.
func (c Control) connect() (*session, error) {
	cfg, err := localserver.Config(c.Config.DataDir, "Nodes")
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1
	cfg.Timeout = patience
	cfg.WarningHandler = rest.NoWarnings{}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &session{out: c.Out, client: client, config: cfg}, nil
}

// explain tells what to do about the usual errors.
func (s *session) explain(err error) error { return localserver.Explain(err, s.config, patience) }

// node returns the Node of that name, or an error that names what may be meant.
func (s *session) node(ctx context.Context, name string) (*corev1.Node, error) {
	node, err := s.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, s.unknown(ctx, name)
	case err != nil:
		return nil, fmt.Errorf("get node %s: %w", name, s.explain(err))
	}
	return node, nil
}

// errUnknown: there is no Node of that name.
type errUnknown struct{ name, near string }

func (e *errUnknown) Error() string {
	if e.near != "" {
		return fmt.Sprintf("there is no node %s; did you mean %s? `limpet node list` shows the nodes", e.name, e.near)
	}
	return fmt.Sprintf("there is no node %s; `limpet node list` shows the nodes", e.name)
}

func (s *session) unknown(ctx context.Context, name string) error {
	list, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", s.explain(err))
	}
	names := make([]string, 0, len(list.Items))
	for _, n := range list.Items {
		names = append(names, n.Name)
	}
	return &errUnknown{name: name, near: config.Suggest(name, names)}
}

// record returns the Secret that records who owns the name; nil if there is none.
func (s *session) record(ctx context.Context, name string) (*corev1.Secret, error) {
	secret, err := s.client.CoreV1().Secrets(noderecord.Namespace).Get(ctx, noderecord.SecretName(name), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get the identity record of node %s: %w", name, s.explain(err))
	}
	return secret, nil
}

func isServer(n *corev1.Node) bool {
	_, ok := n.Labels[serverRole]
	return ok
}
