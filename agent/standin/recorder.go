package standin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/limpetio/limpet/agent/standin/journal"
)

// Credentials are the kubeconfig files of the identities that may read what is
// recorded. Proxy or DNS may be empty on a node that runs no such component:
// what only it needs is not recorded then.
type Credentials struct{ Kubelet, Proxy, Network, DNS string }

// RecorderOptions configure a [Recorder].
type RecorderOptions struct {
	// NodeName is whose pods are recorded.
	NodeName string
	// Journal is what the record is kept in; see [Open].
	Journal *journal.Journal
	Credentials
	// Reached is closed when this process has reached a server. Nothing is read
	// before: what a stand-in says must never be recorded.
	Reached <-chan struct{}
	Logger  *slog.Logger
}

// Open opens the record of a node in a directory, e.g. /var/lib/limpet/agent/cache.
// A damaged record opens with what is left of it.
func Open(dir string, log *slog.Logger) (*journal.Journal, error) {
	j, err := journal.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open what this node remembers of the cluster: %w", err)
	}
	if s := j.Stats(); s.Damaged > 0 {
		log.Warn("parts of what this node remembers of the cluster are damaged; they come back from the server", "places", s.Damaged, "objects", s.Keys)
	}
	return j, nil
}

// Recorder is the component that keeps the journal right while a server is there.
type Recorder struct {
	opts    RecorderOptions
	kinds   map[string]kind
	wake    chan struct{}
	clients clients
	connect func() (clients, error)

	mu      sync.Mutex
	pending pending
	// refs are what each of the node's pods refers to, by the pod's key.
	refs map[string][]ref
	// followed are the objects whose changes are followed because a pod refers to them.
	followed map[ref]context.CancelFunc
	follow   func(ref) context.CancelFunc
}

// NewRecorder returns the component; nothing happens before Run.
func NewRecorder(opts RecorderOptions) *Recorder {
	r := &Recorder{
		opts: opts, kinds: recordedKinds(), wake: make(chan struct{}, 1),
		pending: pending{changes: map[string]waiting{}, stored: opts.Journal.Same},
	}
	r.connect = r.fromKubeconfigs
	return r
}

// Name implements component.Component.
func (r *Recorder) Name() string { return "offline-record" }

// Run records until ctx is done, once a server has been reached. It writes what
// waits before it returns.
func (r *Recorder) Run(ctx context.Context, ready func()) error {
	ready()
	select {
	case <-r.opts.Reached:
	case <-ctx.Done():
		return nil
	}
	var err error
	if r.clients, err = r.connect(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	r.mu.Lock()
	r.refs, r.followed = map[string][]ref{}, map[ref]context.CancelFunc{}
	r.follow = func(o ref) context.CancelFunc {
		ctx, cancel := context.WithCancel(ctx)
		wg.Go(func() { r.followRef(ctx, o) })
		return cancel
	}
	r.mu.Unlock()
	for _, f := range r.feeds() {
		wg.Go(func() { f.run(ctx) })
	}
	r.write(ctx)
	return nil
}

// write brings changes to disk when they are due.
func (r *Recorder) write(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	complained := false
	for {
		r.mu.Lock()
		at, waiting := r.pending.next()
		r.mu.Unlock()
		var due <-chan time.Time
		if waiting {
			timer.Reset(time.Until(at))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			if err := r.flush(true); err != nil {
				r.opts.Logger.Warn("the last changes of the cluster were not recorded", "error", err)
			}
			return
		case <-r.wake:
		case <-due:
			err := r.flush(false)
			if err != nil && !complained {
				r.opts.Logger.Warn("what this node would need after a reboot without its server could not be recorded; trying again every minute", "error", err)
			}
			complained = err != nil
		}
	}
}

// retryAfter is the pause after a write that failed: the disk is full, say.
const retryAfter = time.Minute

func (r *Recorder) flush(all bool) error {
	r.mu.Lock()
	changes := r.pending.due(time.Now(), all)
	r.mu.Unlock()
	err := r.opts.Journal.Apply(changes)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.pending.retry(changes, time.Now().Add(retryAfter))
		return err
	}
	r.pending.done(changes, time.Now())
	return nil
}

// put notes an object as the server has it.
func (r *Recorder) put(resource string, obj runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	data, err := encode(obj)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := journalKey(resource, m.GetNamespace(), m.GetName())
	r.set(key, resource, data)
	if pod, ok := obj.(*corev1.Pod); ok {
		r.refer(key, refsOf(pod))
	}
	return nil
}

// remove notes that an object is gone.
func (r *Recorder) remove(key, resource string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(key, resource, nil)
	if resource == pods {
		r.refer(key, nil)
	}
}

// set queues a change; mu is held.
func (r *Recorder) set(key, resource string, data []byte) {
	r.pending.set(key, data, time.Now(), patience(resource, !r.opts.Journal.Has(key)))
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// refer makes what is followed what the pods refer to now; mu is held.
func (r *Recorder) refer(pod string, refs []ref) {
	if len(refs) == 0 {
		delete(r.refs, pod)
	} else {
		r.refs[pod] = refs
	}
	wanted := r.wanted()
	for o, stop := range r.followed {
		if !wanted[o] {
			stop()
			delete(r.followed, o)
			r.forget(o.key())
			if o.resource == claims {
				r.forget(o.volumeKey())
			}
		}
	}
	for o := range wanted {
		if r.followed[o] == nil {
			r.followed[o] = r.follow(o)
		}
	}
}

// wanted is what any of the pods refers to; mu is held.
func (r *Recorder) wanted() map[ref]bool {
	wanted := map[ref]bool{}
	for _, list := range r.refs {
		for _, o := range list {
			wanted[o] = true
		}
	}
	return wanted
}

// forget removes what no pod refers to any more, except what DNS needs; mu is held.
func (r *Recorder) forget(key string) {
	for _, name := range dnsConfigMaps() {
		if key == journalKey(configMaps, metav1.NamespaceSystem, name) {
			return
		}
	}
	resource, _, _ := strings.Cut(key, "/")
	r.set(key, resource, nil)
}

// sweep removes what was recorded for pods that went while nobody looked. It
// comes after all pods of the node are known.
func (r *Recorder) sweep() {
	keep := map[string]bool{}
	r.mu.Lock()
	for o := range r.wanted() {
		keep[o.key()] = true
		if o.resource == claims {
			keep[o.volumeKey()] = true
		}
	}
	r.mu.Unlock()
	for _, resource := range []string{secrets, configMaps, claims, volumes} {
		for _, key := range r.known(resource + "/") {
			if !keep[key] {
				r.mu.Lock()
				r.forget(key)
				r.mu.Unlock()
			}
		}
	}
}

// clients are one for each identity.
type clients struct{ kubelet, proxy, network, dns kubernetes.Interface }

func (r *Recorder) fromKubeconfigs() (clients, error) {
	var c clients
	for _, identity := range []struct {
		file   string
		client *kubernetes.Interface
	}{{r.opts.Kubelet, &c.kubelet}, {r.opts.Proxy, &c.proxy}, {r.opts.Network, &c.network}, {r.opts.DNS, &c.dns}} {
		if identity.file == "" {
			continue
		}
		cfg, err := clientcmd.BuildConfigFromFlags("", identity.file)
		if err != nil {
			return c, fmt.Errorf("read kubeconfig: %w", err)
		}
		if *identity.client, err = newClient(cfg); err != nil {
			return c, err
		}
	}
	if c.kubelet == nil || c.network == nil {
		return c, errors.New("the recorder needs the kubeconfigs of the kubelet and of the network")
	}
	return c, nil
}

// newClient speaks protocol buffers: less to transfer and to decode than JSON.
func newClient(cfg *rest.Config) (kubernetes.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "limpet-offline-record"
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

func fieldSelector(s string) func(*metav1.ListOptions) {
	return func(o *metav1.ListOptions) { o.FieldSelector = s }
}
