// Package localserver leads the commands that manage a cluster to the API
// server of this machine, as its administrator.
package localserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config is the administrator's client configuration of the server that has its
// data in dataDir. what, such as "Nodes", is managed with it, for the error
// when there is no such server or this is not root.
func Config(dataDir, what string) (*rest.Config, error) {
	path := filepath.Join(dataDir, "server", "cred", "admin.kubeconfig")
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return nil, errors.New("this must run as root")
		}
		return nil, fmt.Errorf("no server of limpet has run here: %w. %s are managed on the server's machine; is its data elsewhere (--data-dir)?", err, what)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return cfg, nil
}

// Explain tells what to do about a server that does not run, or has not
// answered within patience; other errors are returned as they are.
func Explain(err error, cfg *rest.Config, patience time.Duration) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the server is not running (nobody listens on %s): start it and try again", strings.TrimPrefix(cfg.Host, "https://"))
	}
	if netErr := (net.Error)(nil); errors.As(err, &netErr) && netErr.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the server did not answer within %v; `limpet status` tells more: %w", patience, err)
	}
	return err
}
