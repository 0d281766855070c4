package upgrade

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// eventTimeout bounds how long the cluster may take to hear of the end.
const eventTimeout = 10 * time.Second

// report tells the cluster how an operation ended, by an Event about the node:
// with the administrator's identity on a server, the kubelet's on an agent.
func report(ctx context.Context, dataDir string, j Journal, log *slog.Logger) {
	if j.Node == "" || j.Phase == Abandoned {
		return
	}
	if err := createEvent(ctx, dataDir, j); err != nil {
		log.Warn("the cluster could not be told of the end", "error", err)
	}
}

func createEvent(ctx context.Context, dataDir string, j Journal) error {
	kubeconfig := filepath.Join(dataDir, "server", "cred", "admin.kubeconfig")
	if _, err := os.Stat(kubeconfig); err != nil || j.Database == "" {
		kubeconfig = filepath.Join(dataDir, "agent", "cred", "kubelet.kubeconfig")
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	cfg.Timeout = eventTimeout
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, event(j, time.Now()), metav1.CreateOptions{})
	return err
}

func event(j Journal, at time.Time) *corev1.Event {
	kind, reason := corev1.EventTypeNormal, "LimpetUpgraded"
	switch {
	case j.Phase == RolledBack:
		kind, reason = corev1.EventTypeWarning, "LimpetUpgradeFailed"
	case j.Kind == KindRollback:
		reason = "LimpetRolledBack"
	}
	message := j.Sentence()
	if len(message) > 1024 { // the most that an Event takes
		message = message[:1021] + "..."
	}
	now := metav1.NewTime(at)
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: j.Node + "-upgrade-", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: j.Node},
		Reason:         reason, Message: message, Type: kind,
		Source:         corev1.EventSource{Component: "limpet", Host: j.Node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
}
