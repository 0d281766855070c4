package tunnel

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	coreinformers "k8s.io/client-go/informers/core/v1"

	agenttunnel "github.com/limpetio/limpet/agent/tunnel"
)

const (
	nodeUserPrefix = "system:node:"
	directTimeout  = 30 * time.Second // upstream's
)

// Hub knows the tunnels of all nodes. It is the handler of agenttunnel.Path,
// and its DialContext is for the API server.
type Hub struct {
	log   *slog.Logger
	id    string // of this process
	nodes *nodeTable
	// direct makes the connections that go through no tunnel.
	direct  func(ctx context.Context, network, address string) (net.Conn, error)
	silence time.Duration // see session

	mu       sync.Mutex
	stopped  bool
	sessions map[string]*session      // by node
	arrival  map[string]chan struct{} // closed when the node has a session; made by those that wait
}

// New returns a Hub that takes tunnels once it has seen the nodes (Watch).
func New(log *slog.Logger) *Hub {
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails: see crypto/rand
	dialer := &net.Dialer{Timeout: directTimeout, KeepAlive: 30 * time.Second}
	h := &Hub{
		log: log, id: hex.EncodeToString(random), direct: dialer.DialContext, silence: defaultSilence,
		sessions: map[string]*session{}, arrival: map[string]chan struct{}{},
	}
	h.nodes = &nodeTable{nodes: map[string]node{}, synced: func() bool { return false }, deleted: h.nodeDeleted}
	return h
}

// Watch follows the Nodes of an informer. It is called before the informer
// is started, once.
func (h *Hub) Watch(nodes coreinformers.NodeInformer) error {
	registration, err := nodes.Informer().AddEventHandler(h.nodes.handler())
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nodes.synced = registration.HasSynced
	return nil
}

// Name implements component.Component.
func (h *Hub) Name() string { return agenttunnel.Name }

// Run waits for ctx and then ends all tunnels.
func (h *Hub) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	h.mu.Lock()
	h.stopped = true
	open := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		open = append(open, s)
	}
	h.mu.Unlock()
	for _, s := range open {
		s.close()
	}
	return nil
}

// Session describes the tunnel of a node.
type Session struct {
	Node   string    `json:"node"`
	Remote string    `json:"remote"` // the address that the node comes from
	Since  time.Time `json:"since"`
	// Connections are those that the tunnel carries now.
	Connections int `json:"connections"`
}

// Sessions lists the tunnels, by node.
func (h *Hub) Sessions() []Session {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]Session, 0, len(h.sessions))
	for _, s := range h.sessions {
		list = append(list, Session{Node: s.node, Remote: s.remote, Since: s.since, Connections: s.client.InFlight()})
	}
	slices.SortFunc(list, func(a, b Session) int { return strings.Compare(a.Node, b.Node) })
	return list
}

// ServeHTTP takes a tunnel. The API server has authenticated the request and
// found it allowed; who the node is follows from nothing but its certificate.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, refusal, status := h.admit(r)
	if refusal != "" {
		http.Error(w, refusal, status)
		return
	}
	notAfter := r.TLS.PeerCertificates[0].NotAfter
	conn, err := hijacked(w, h.id)
	if err != nil {
		// A connection that was taken over has no response any more.
		h.log.Warn("a node's tunnel did not come about", "node", name, "error", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s, err := newSession(name, conn, notAfter, h.silence, h.closed)
	if err != nil {
		_ = conn.Close()
		h.log.Warn("a node's tunnel did not come about", "node", name, "error", err)
		return
	}
	h.add(s)
}

// admit returns the node's name, or why it gets no tunnel and the status to say it with.
func (h *Hub) admit(r *http.Request) (name, refusal string, status int) {
	who, ok := request.UserFrom(r.Context())
	if !ok {
		return "", "who asks is not known", http.StatusUnauthorized
	}
	name, ok = nodeOf(who)
	switch {
	case !ok:
		return "", "tunnels are for nodes", http.StatusForbidden
	case r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || r.TLS.PeerCertificates[0].Subject.CommonName != who.GetName():
		return "", "a node proves who it is by its certificate", http.StatusForbidden
	case r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), agenttunnel.Protocol):
		return "", "ask with GET and Upgrade: " + agenttunnel.Protocol, http.StatusUpgradeRequired
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.stopped || !h.nodes.synced():
		return "", "the server is starting or stopping", http.StatusServiceUnavailable
	case !h.nodes.has(name):
		return "", "there is no Node " + name, http.StatusNotFound
	}
	for id := range strings.SplitSeq(r.Header.Get(agenttunnel.ConnectedHeader), ",") {
		if s := h.sessions[name]; strings.TrimSpace(id) == h.id && s != nil && s.alive() {
			return "", "this server has a tunnel of the node already", http.StatusConflict
		}
	}
	return name, "", 0
}

// nodeOf returns the name of the node that who is.
func nodeOf(who user.Info) (string, bool) {
	name, ok := strings.CutPrefix(who.GetName(), nodeUserPrefix)
	return name, ok && name != "" && slices.Contains(who.GetGroups(), user.NodesGroup)
}

// add makes s the tunnel of its node, in the place of an older one.
func (h *Hub) add(s *session) {
	h.mu.Lock()
	old := h.sessions[s.node]
	// What can have changed since admit is looked at again. A Node that is deleted
	// from here on ends the session through nodeDeleted.
	if h.stopped || !h.nodes.has(s.node) || !s.alive() {
		h.mu.Unlock()
		s.close()
		return
	}
	h.sessions[s.node] = s
	if waiting := h.arrival[s.node]; waiting != nil {
		close(waiting)
		delete(h.arrival, s.node)
	}
	h.mu.Unlock()
	if old != nil {
		old.close()
	}
	h.log.Info("a node can be reached through its tunnel", "node", s.node, "from", s.remote)
}

// closed is called when s has ended.
func (h *Hub) closed(s *session) {
	h.mu.Lock()
	current := h.sessions[s.node] == s
	if current {
		delete(h.sessions, s.node)
	}
	h.mu.Unlock()
	if current {
		h.log.Info("the tunnel of a node has ended", "node", s.node, "reason", s.client.Err())
	}
}

func (h *Hub) nodeDeleted(name string) {
	h.mu.Lock()
	s := h.sessions[name]
	delete(h.arrival, name) // who waits on it is dialing directly and will see
	h.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// sessionOf returns the node's session, or a channel that is closed when there is one.
func (h *Hub) sessionOf(name string) (*session, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.sessions[name]; s != nil && s.alive() {
		return s, nil
	}
	waiting := h.arrival[name]
	if waiting == nil {
		waiting = make(chan struct{})
		h.arrival[name] = waiting
	}
	return nil, waiting
}

// DialContext connects to address (HOST:PORT) for the API server: through a
// tunnel if it leads to a node that has one, else directly.
func (h *Hub) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	way := h.nodes.find(address)
	if way.node == "" {
		return h.direct(ctx, network, address)
	}
	for {
		s, arrived := h.sessionOf(way.node)
		if s != nil {
			c, err := s.dial(ctx, way.target)
			if !errors.Is(err, errLost) || ctx.Err() != nil {
				return c, err
			}
			s.close()
			_, arrived = h.sessionOf(way.node)
			if arrived == nil {
				continue // it is back already
			}
		}
		c, err := h.unless(ctx, arrived, network, address)
		if !errors.Is(err, errArrived) {
			if err != nil && ctx.Err() == nil {
				err = fmt.Errorf("node %s has no tunnel to this server, and directly: %w", way.node, err)
			}
			return c, err
		}
	}
}

// errArrived tells that the node has a tunnel now.
var errArrived = errors.New("a tunnel arrived")

// unless connects directly, but gives up with errArrived when a tunnel comes up first.
func (h *Hub) unless(ctx context.Context, arrived <-chan struct{}, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		c, err := h.direct(ctx, network, address)
		done <- result{c, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-arrived:
		cancel()
		if r := <-done; r.err == nil {
			return r.conn, nil
		}
		return nil, errArrived
	}
}
