package e2e

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/agent/join"
	"github.com/limpetio/limpet/agent/tunnel"
	"github.com/limpetio/limpet/internal/nodeid"
)

const (
	crowdSize = 20
	// crowdLimit is for all of them to have joined, on two cores.
	crowdLimit = 60 * time.Second
	// crowdMemory is what each agent may cost the server, anonymous memory.
	crowdMemory = 6 << 20
)

// TestCrowdJoins lets twenty agents join at the same moment, as after a power
// cut of a whole site. They are light: everything that an agent does with its
// server (agent/join and agent/tunnel, certificates, Node, lease, watches) and
// nothing of what it does on its machine. The server's memory is printed.
func TestCrowdJoins(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, alone)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	secret, err := os.ReadFile(c.path(t, node1, dataDir+"/server/token"))
	if err != nil {
		t.Fatal(err)
	}
	version := c.status(ctx, t).Kubernetes
	before := c.memory(ctx, t)

	start := time.Now()
	agents := make([]*lightAgent, crowdSize)
	var group sync.WaitGroup
	for i := range agents {
		agents[i] = newLightAgent(t, c, i, strings.TrimSpace(string(secret)), version)
		group.Go(func() { agents[i].err = agents[i].join(ctx) })
	}
	group.Wait()
	took := time.Since(start)
	var each []time.Duration
	for _, a := range agents {
		if a.err != nil {
			t.Errorf("%s: %v", a.name, a.err)
		}
		each = append(each, a.certified)
	}
	if t.Failed() {
		return
	}
	slices.Sort(each)
	t.Logf("%d agents joined within %s; certificate after %s (median), %s (last)", crowdSize, took.Round(time.Millisecond),
		each[crowdSize/2].Round(time.Millisecond), each[crowdSize-1].Round(time.Millisecond))
	if took > crowdLimit {
		t.Errorf("that is more than %s", crowdLimit)
	}
	c.mustKnow(ctx, t, agents)

	joined := c.memory(ctx, t)
	time.Sleep(20 * time.Second) // the garbage of the joins is collected meanwhile
	settled := c.memory(ctx, t)
	t.Logf("memory of the server: %s before, %s when all had joined, %s 20 s later", before, joined, settled)
	if settled.anonymous > before.anonymous+crowdSize*crowdMemory {
		t.Errorf("each agent costs the server more than %d MiB", crowdMemory>>20)
	}
}

// mustKnow checks what the server has of the agents: Nodes with a pod range of
// their own each, no certificate request left undecided, and their tunnels.
func (c *cluster) mustKnow(ctx context.Context, t *testing.T, agents []*lightAgent) {
	t.Helper()
	ranges := map[string]string{}
	for _, a := range agents {
		node := await(ctx, t, c.client.CoreV1().Nodes(), a.name, func(n *corev1.Node) string {
			if n.Spec.PodCIDR == "" {
				return "it has no pod range"
			}
			return ""
		})
		if other := ranges[node.Spec.PodCIDR]; other != "" {
			t.Errorf("%s and %s have the same pod range %s", a.name, other, node.Spec.PodCIDR)
		}
		ranges[node.Spec.PodCIDR] = a.name
		eventually(ctx, t, "the tunnel of "+a.name, func() error {
			for _, s := range a.tunnel.States() {
				if s.Connected {
					return nil
				}
			}
			return fmt.Errorf("%+v", a.tunnel.States())
		})
	}
	csrs, err := c.client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range csrs.Items {
		if len(r.Status.Certificate) == 0 {
			t.Errorf("certificate request %s of %s: %+v", r.Name, r.Spec.Username, r.Status.Conditions)
		}
	}
}

// memory of a process, in bytes.
type memory struct{ resident, proportional, anonymous int64 }

func (m memory) String() string {
	return fmt.Sprintf("RSS %d, PSS %d, anonymous %d MiB", m.resident>>20, m.proportional>>20, m.anonymous>>20)
}

// memory is that of limpet on n1.
func (c *cluster) memory(ctx context.Context, t *testing.T) (m memory) {
	t.Helper()
	f, err := os.Open(filepath.Join("/proc", strings.TrimSpace(c.must(ctx, t, "pid", node1)), "smaps_rollup"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	wanted := map[string]*int64{"Rss:": &m.resident, "Pss:": &m.proportional, "Anonymous:": &m.anonymous}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) != 3 || wanted[fields[0]] == nil {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		*wanted[fields[0]] = kib << 10
	}
	return m
}

// lightAgent is an agent without a machine.
type lightAgent struct {
	name    string
	address netip.Addr
	server  *url.URL
	files   join.Files
	opts    join.Options
	tunnel  *tunnel.Tunnel

	err       error
	certified time.Duration // from the beginning to the kubelet's certificate
}

func newLightAgent(t *testing.T, c *cluster, i int, token, version string) *lightAgent {
	t.Helper()
	server, err := url.Parse(c.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := nodeid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	a := &lightAgent{
		name: fmt.Sprintf("light-%02d", i), address: netip.AddrFrom4([4]byte{10, 99, 1, byte(10 + i)}),
		server: server, files: join.Files{Dir: t.TempDir()},
	}
	a.opts = join.Options{
		Server: c.config.Host, Token: token, NodeName: a.name, Files: a.files,
		Identity: identity, KubernetesVersion: version, Logger: slog.New(slog.DiscardHandler),
	}
	a.tunnel = tunnel.New(tunnel.Options{
		Servers:  func() []string { return []string{server.Host} },
		ServerCA: a.files.ServerCA(), ClientCert: a.files.Client(join.Kubelet), ClientKey: a.files.Client(join.Kubelet),
		PodRanges: func(context.Context) ([]netip.Prefix, error) { return nil, nil },
		Logger:    slog.New(slog.DiscardHandler),
	})
	return a
}

// join does all that an agent does with its server until its node works; what
// goes on after that ends with ctx.
func (a *lightAgent) join(ctx context.Context) error {
	start := time.Now()
	grant, err := join.Request(ctx, a.opts)
	if err != nil {
		return err
	}
	if err := grant.Save(a.files); err != nil {
		return err
	}
	a.certified = time.Since(start)
	client, err := a.client(rest.TLSClientConfig{CertFile: a.files.Client(join.Kubelet), KeyFile: a.files.Client(join.Kubelet)})
	if err != nil {
		return err
	}
	if err := a.register(ctx, client); err != nil {
		return err
	}
	proxy, err := a.certificates(ctx, join.Proving(client, a.opts.Identity))
	if err != nil {
		return err
	}
	if err := a.watch(ctx, client, proxy); err != nil {
		return err
	}
	go func() { _ = a.tunnel.Run(ctx, func() {}) }()
	return nil
}

func (a *lightAgent) client(tls rest.TLSClientConfig) (*kubernetes.Clientset, error) {
	tls.CAFile = a.files.ServerCA()
	return kubernetes.NewForConfig(&rest.Config{
		Host: a.opts.Server, TLSClientConfig: tls, QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
		Dial:          (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	})
}

// register is the kubelet's: the Node, its status and its lease.
func (a *lightAgent) register(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: a.name, Labels: map[string]string{corev1.LabelHostname: a.name}}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create Node: %w", err)
	}
	status, err := json.Marshal(map[string]any{"status": corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: a.address.String()}, {Type: corev1.NodeHostName, Address: a.name}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Light",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}},
	}})
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, a.name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("report status: %w", err)
	}
	_, err = client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: a.name, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Node", Name: a.name, UID: node.UID}}},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &a.name, LeaseDurationSeconds: ptr(int32(40)), RenewTime: &metav1.MicroTime{Time: time.Now()}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create lease: %w", err)
	}
	return nil
}

// certificates obtains the kubelet's serving certificate and those of the node's
// agents; it returns kube-proxy's client.
func (a *lightAgent) certificates(ctx context.Context, client kubernetes.Interface) (proxy kubernetes.Interface, err error) {
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature}
	serving := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:" + a.name, Organization: []string{"system:nodes"}},
		DNSNames: []string{a.name}, IPAddresses: []net.IP{a.address.AsSlice()},
	}
	if _, err := obtain(ctx, client, certificatesv1.KubeletServingSignerName, serving, append(usages, certificatesv1.UsageServerAuth)); err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	for _, group := range []string{"limpet:network", "limpet:dns", "limpet:kube-proxy"} {
		request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: group + ":" + a.name, Organization: []string{group}}}
		pair, err := obtain(ctx, client, certificatesv1.KubeAPIServerClientSignerName, request, append(usages, certificatesv1.UsageClientAuth))
		if err != nil {
			return nil, fmt.Errorf("certificate of %s: %w", group, err)
		}
		if proxy, err = a.client(pair); err != nil {
			return nil, err
		}
	}
	return proxy, nil
}

// obtain asks for a certificate and waits for it.
func obtain(ctx context.Context, client kubernetes.Interface, signer string, request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) (pair rest.TLSClientConfig, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return pair, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair, err
	}
	csrs := client.CertificatesV1().CertificateSigningRequests()
	csr, err := csrs.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "light-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Usages: usages,
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})},
	}, metav1.CreateOptions{})
	if err != nil {
		return pair, err
	}
	w, err := csrs.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", csr.Name).String()})
	if err != nil {
		return pair, err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if csr, ok := e.Object.(*certificatesv1.CertificateSigningRequest); ok {
			for _, c := range csr.Status.Conditions {
				if c.Type != certificatesv1.CertificateApproved {
					return pair, fmt.Errorf("%s: %s: %s", c.Type, c.Reason, c.Message)
				}
			}
			if len(csr.Status.Certificate) > 0 {
				return rest.TLSClientConfig{CertData: csr.Status.Certificate,
					KeyData: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}, nil
			}
		}
	}
	return pair, fmt.Errorf("no decision about %s: %w", csr.Name, ctx.Err())
}

// watch begins the watches of the kubelet and of kube-proxy, which are what an
// agent costs its server while nothing happens.
func (a *lightAgent) watch(ctx context.Context, kubelet, proxy kubernetes.Interface) error {
	pods := informers.NewSharedInformerFactoryWithOptions(kubelet, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", a.name).String()
	}))
	pods.Core().V1().Pods().Informer()
	others := informers.NewSharedInformerFactory(kubelet, 0)
	others.Core().V1().Services().Informer()
	others.Node().V1().RuntimeClasses().Informer()
	others.Storage().V1().CSIDrivers().Informer()
	proxies := informers.NewSharedInformerFactory(proxy, 0)
	proxies.Core().V1().Services().Informer()
	proxies.Core().V1().Nodes().Informer()
	proxies.Discovery().V1().EndpointSlices().Informer()
	for _, f := range []informers.SharedInformerFactory{pods, others, proxies} {
		f.Start(ctx.Done())
		for kind, ok := range f.WaitForCacheSync(ctx.Done()) {
			if !ok {
				return fmt.Errorf("the watch of %s did not begin: %w", kind, ctx.Err())
			}
		}
	}
	return nil
}
