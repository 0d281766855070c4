package standin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/cert"

	"github.com/limpetio/limpet/agent/standin/journal"
)

// Options configure a [Server].
type Options struct {
	// NodeName is the node whose components are answered.
	NodeName string
	// ClientCA is the PEM bundle that their certificates are verified with.
	ClientCA []byte
	// Journal is what the [Recorder] has kept; see [Open].
	Journal *journal.Journal
	// Rebooted says that the machine has started since pods ran on it. False:
	// they have gone on running.
	Rebooted bool
	// Reached is closed when this process has reached a server.
	Reached <-chan struct{}
	Logger  *slog.Logger
}

// Server is the API server that stands in. It reads the record when the first
// client comes; a node that reaches its server at once never does.
type Server struct {
	opts     Options
	pair     tls.Certificate
	certPEM  []byte
	clientCA []*x509.Certificate
	listener *pairListener

	mu     sync.Mutex
	http   *http.Server // nil before the first client
	tables []*table
	ended  bool
	since  time.Time
}

// New returns a server that nobody can reach before [Server.Dial]. Its
// certificate is made now and trusted through [Server.WriteTrust].
func New(opts Options) (*Server, error) {
	s := &Server{opts: opts, listener: newPairListener()}
	var err error
	if s.clientCA, err = cert.ParseCertsPEM(opts.ClientCA); err != nil {
		return nil, fmt.Errorf("stand-in API server: client CA: %w", err)
	}
	if s.pair, s.certPEM, err = selfSigned(); err != nil {
		return nil, fmt.Errorf("stand-in API server: make certificate: %w", err)
	}
	return s, nil
}

// Name implements component.Component.
func (s *Server) Name() string { return "stand-in" }

// Run is ready at once and ends the server for good when a real one has been
// reached, or when ctx is done.
func (s *Server) Run(ctx context.Context, ready func()) error {
	ready()
	select {
	case <-ctx.Done():
	case <-s.opts.Reached:
	}
	s.end()
	return nil
}

// Dial connects to the server inside this process, for the load balancer. It
// fails for good once a real server has been reached.
func (s *Server) Dial(ctx context.Context) (net.Conn, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	return s.listener.dial(ctx)
}

// begin loads the record and serves, the first time it is called.
func (s *Server) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errors.New("the stand-in API server has ended: a server of the cluster has been reached")
	}
	if s.http != nil {
		return nil
	}
	tables, err := s.load()
	if err != nil {
		return err
	}
	handler, err := newHandler(s.opts.NodeName, tables, s.opts.Logger)
	if err != nil {
		return err
	}
	s.tables, s.since = tables, time.Now()
	s.http = &http.Server{
		Handler: handler, TLSConfig: s.tlsConfig(),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.opts.Logger.Handler(), slog.LevelDebug),
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 1000}, // a watch for each Secret and ConfigMap of the kubelet
	}
	go func() { _ = s.http.ServeTLS(s.listener, "", "") }() // ends with the listener
	return nil
}

// load fills the tables from the record.
func (s *Server) load() ([]*table, error) {
	var tables []*table
	recorded := map[string]*table{}
	for _, k := range catalog() {
		t := newTable(k)
		tables = append(tables, t)
		if k.recorded {
			recorded[k.gvr.Resource] = t
		}
	}
	kinds, bad, podCount := recordedKinds(), 0, 0
	unreadable, err := s.opts.Journal.Each(func(key string, value []byte) error {
		k, obj, err := decode(kinds, key, value)
		if err != nil {
			s.opts.Logger.Debug("an object of the record is not understood", "error", err)
			bad++
			return nil
		}
		switch obj := obj.(type) {
		case *corev1.Pod:
			podCount++
			mark(obj)
		case *corev1.Node:
			unready(obj)
		}
		setKind(obj, k)
		return recorded[k.gvr.Resource].load(obj)
	})
	if err != nil {
		return nil, fmt.Errorf("read what this node remembers of the cluster: %w", err)
	}
	f := &follower{node: s.opts.NodeName, tables: recorded, rebooted: s.opts.Rebooted, ready: map[types.UID]bool{}}
	f.follow()
	recorded[pods].changed = f.follow
	s.opts.Logger.Warn("no server of the cluster is reached; this node starts the pods that it ran last, from its own record",
		"pods", podCount, "unreadable", unreadable+bad)
	return tables, nil
}

// Annotation marks pods that the stand-in has handed out. Its disappearance is
// a change, which makes the kubelet look at the pod the moment that the real
// server lists it: tokens and changed volumes arrive without a wait.
const Annotation = "limpet.io/from-record"

func mark(pod *corev1.Pod) {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[Annotation] = "true"
}

// unready gives a Node the condition that the kubelet expects on one that exists.
// Its times are in the past of any clock.
func unready(node *corev1.Node) {
	node.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionUnknown,
		Reason: "NoServer", Message: "no server has been reached since the node started",
		LastHeartbeatTime: metav1.Unix(1, 0), LastTransitionTime: metav1.Unix(1, 0),
	}}
}

// setKind names the type inside the object, as the API does for what is embedded.
func setKind(obj runtime.Object, k kind) { obj.GetObjectKind().SetGroupVersionKind(k.gvk()) }

// end tells watchers, closes every connection and lets go of the record.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	for _, t := range s.tables {
		t.end()
	}
	_ = s.listener.Close()
	if s.http == nil {
		return
	}
	s.opts.Logger.Info("a server of the cluster has been reached; the node's own record is not used any more",
		"after", time.Since(s.since).Round(time.Second).String())
	// The error events are given a moment to leave.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.http.Shutdown(ctx)
	_ = s.http.Close()
	s.http, s.tables = nil, nil
}

// Active reports whether components are being answered from the record, and since when.
func (s *Server) Active() (since time.Time, active bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.http != nil
}
