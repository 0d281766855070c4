// Package status tells a running limpet's state to `limpet status`: over a unix
// socket that only root can open, so that it works while the API server does not.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/limpetio/limpet/internal/component"
)

// Socket is where a running limpet answers.
const Socket = "/run/limpet/status.sock"

// Report is the state of a limpet process.
type Report struct {
	Version    string    `json:"version"`
	Kubernetes string    `json:"kubernetes"`
	Mode       string    `json:"mode"`
	Node       string    `json:"node"`
	PID        int       `json:"pid"`
	Started    time.Time `json:"started"`

	Components []component.State `json:"components"`
	Manifests  []File            `json:"manifests,omitempty"`
	Images     []File            `json:"images,omitempty"`
	DNS        *DNS              `json:"dns,omitempty"`
}

// File is the state of one file that limpet acts on: a manifest, an image archive.
type File struct {
	Name  string    `json:"name"`
	State string    `json:"state"`
	Since time.Time `json:"since"`
	Error string    `json:"error,omitempty"`
}

// DNS is the state of the cluster DNS.
type DNS struct {
	Upstreams []string `json:"upstreams"`
	// Error is why the newest configuration is not in use.
	Error string `json:"error,omitempty"`
}

// Problems lists in words what is not as it should be.
func (r Report) Problems() []string {
	var problems []string
	for _, c := range r.Components {
		if !c.Healthy() {
			problems = append(problems, fmt.Sprintf("component %s is %s%s", c.Name, c.Phase, because(c.Reason)))
		}
	}
	for _, f := range r.Manifests {
		if f.Error != "" {
			problems = append(problems, fmt.Sprintf("manifest %s: %s", f.Name, f.Error))
		}
	}
	for _, f := range r.Images {
		if f.Error != "" {
			problems = append(problems, fmt.Sprintf("image file %s: %s", f.Name, f.Error))
		}
	}
	if r.DNS != nil && r.DNS.Error != "" {
		problems = append(problems, "dns: "+r.DNS.Error)
	}
	return problems
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// Server is the component that answers on the socket.
type Server struct {
	Path   string
	Report func() Report
}

// Name implements component.Component.
func (s *Server) Name() string { return "status" }

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o700); err != nil {
		return fmt.Errorf("create directory of %s: %w", s.Path, err)
	}
	// Whoever holds the lock on the data directory owns the socket.
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := net.Listen("unix", s.Path)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.Path, err)
	}
	if err := os.Chmod(s.Path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("protect %s: %w", s.Path, err), listener.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.Report()) // the client has gone: nobody to tell
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 1 << 13}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", s.Path, err)
	case <-ctx.Done():
		return server.Close()
	}
}

// Fetch asks the running limpet.
func Fetch(ctx context.Context, path string) (Report, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://limpet/status", nil)
	if err != nil {
		return Report{}, err
	}
	resp, err := client.Do(req)
	if errors.Is(err, os.ErrPermission) {
		return Report{}, fmt.Errorf("open %s: permission denied; run this as root", path)
	}
	if err != nil {
		return Report{}, fmt.Errorf("no limpet answers on %s: is it running? (systemctl status limpet)", path)
	}
	defer resp.Body.Close()
	var r Report
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return Report{}, fmt.Errorf("read status from %s: %w", path, err)
	}
	return r, nil
}
