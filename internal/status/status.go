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
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/limpetio/limpet/datastore/snapshot"
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
	Datastore  *Datastore        `json:"datastore,omitempty"`
	Manifests  []File            `json:"manifests,omitempty"`
	Images     []File            `json:"images,omitempty"`
	DNS        *DNS              `json:"dns,omitempty"`
	Tunnels    []Tunnel          `json:"tunnels,omitempty"`
	Upgrade    *Upgrade          `json:"upgrade,omitempty"`

	// Of an agent.
	Servers      []APIServer   `json:"servers,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// FromRecord is since when the node works from its own record, because this
	// process has not reached a server; zero: it does not.
	FromRecord time.Time `json:"fromRecord,omitzero"`
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

// Datastore is the state of the datastore.
type Datastore struct {
	Keys      int   `json:"keys"`
	Revision  int64 `json:"revision"`
	FileBytes int64 `json:"fileBytes"`
	WALBytes  int64 `json:"walBytes"`
	// Clean is false if the last process ended without closing it.
	Clean bool `json:"clean"`
	// Recovered is what was put in the place of a damaged one at this start.
	Recovered string `json:"recovered,omitempty"`
	// Error is why the last commit failed; empty after a success.
	Error     string           `json:"error,omitempty"`
	Snapshots *snapshot.Status `json:"snapshots,omitempty"`
}

func (d *Datastore) problems() []string {
	var list []string
	if d.Error != "" {
		list = append(list, "datastore: "+d.Error)
	}
	if d.Recovered != "" {
		list = append(list, "datastore: "+d.Recovered)
	}
	if s := d.Snapshots; s != nil {
		if s.Error != "" {
			list = append(list, "snapshot: "+s.Error)
		}
		if s.Bucket != nil && s.Bucket.Error != "" {
			list = append(list, "snapshot bucket: "+s.Bucket.Error)
		}
	}
	return list
}

// Snapshot is the answer to a request for a snapshot.
type Snapshot struct {
	Info  snapshot.Info `json:"info"`
	Error string        `json:"error,omitempty"`
}

// Problems lists in words what is not as it should be.
func (r Report) Problems() []string {
	var problems []string
	for _, c := range r.Components {
		if !c.Healthy() {
			problems = append(problems, fmt.Sprintf("component %s is %s%s", c.Name, c.Phase, because(c.Reason)))
		}
	}
	if r.Datastore != nil {
		problems = append(problems, r.Datastore.problems()...)
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
	problems = append(problems, tunnelProblems(r.Tunnels)...)
	problems = append(problems, r.nodeProblems(time.Now())...)
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
	// TakeSnapshot answers POST /snapshot with a Snapshot.
	TakeSnapshot http.Handler
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
	if s.TakeSnapshot != nil {
		mux.Handle("POST /snapshot", s.TakeSnapshot)
	}
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

// ErrNotRunning is the cause when nobody answers on the socket.
var ErrNotRunning = errors.New("is it running? (systemctl status limpet)")

// Fetch asks the running limpet.
func Fetch(ctx context.Context, path string) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var r Report
	err := call(ctx, path, http.MethodGet, "/status", &r)
	return r, err
}

// TakeSnapshot has the running limpet take a snapshot, for a reason. It may take
// as long as ctx does.
func TakeSnapshot(ctx context.Context, path string, reason snapshot.Reason) (snapshot.Info, error) {
	var answer Snapshot
	if err := call(ctx, path, http.MethodPost, "/snapshot?reason="+url.QueryEscape(string(reason)), &answer); err != nil {
		return snapshot.Info{}, err
	}
	if answer.Error != "" {
		return answer.Info, errors.New(answer.Error)
	}
	return answer.Info, nil
}

// call sends a request over the socket and decodes the answer.
func call(ctx context.Context, path, method, resource string, answer any) error {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://limpet"+resource, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("open %s: permission denied; run this as root", path)
	case ctx.Err() != nil:
		return fmt.Errorf("ask limpet on %s: %w", path, ctx.Err())
	case err != nil:
		return fmt.Errorf("no limpet answers on %s: %w", path, ErrNotRunning)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the answer from %s (HTTP %d): %w", path, resp.StatusCode, err)
	}
	return nil
}
