package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/noderecord"
)

// joinToken makes a join token that lasts for the test, and returns a client
// that has nothing else.
func (c *cluster) joinToken(ctx context.Context, t *testing.T, id string) *kubernetes.Clientset {
	t.Helper()
	secrets := c.client.CoreV1().Secrets("kube-system")
	name := "bootstrap-token-" + id
	_, err := secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Type: "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
			"auth-extra-groups": "system:bootstrappers:limpet:agents",
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = secrets.Delete(ctx, name, metav1.DeleteOptions{}) // the cluster goes, too
	})
	return newClient(t, c.as(id+".0123456789abcdef"))
}

func newClient(t *testing.T, cfg *rest.Config) *kubernetes.Clientset {
	t.Helper()
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// machine is what asks for certificates: as a rule with a join token only.
type machine struct {
	t        *testing.T
	client   *kubernetes.Clientset
	identity nodeid.Key
	key      *ecdsa.PrivateKey
}

func newMachine(t *testing.T, client *kubernetes.Clientset) machine {
	t.Helper()
	identity, err := nodeid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return machine{t: t, client: client, identity: identity, key: key}
}

// certWish is what a machine asks for.
type certWish struct {
	signer string
	cn, o  string
	names  []string
	addrs  []string
	usage  certificatesv1.KeyUsage
	proof  bool
}

func kubeletWish(node string) certWish {
	return certWish{
		signer: certificatesv1.KubeAPIServerClientKubeletSignerName, cn: "system:node:" + node, o: "system:nodes",
		usage: certificatesv1.UsageClientAuth, proof: true,
	}
}

func servingWish(node string, names, addrs []string) certWish {
	return certWish{
		signer: certificatesv1.KubeletServingSignerName, cn: "system:node:" + node, o: "system:nodes",
		names: names, addrs: addrs, usage: certificatesv1.UsageServerAuth,
	}
}

func agentWish(user, group string) certWish {
	return certWish{signer: certificatesv1.KubeAPIServerClientSignerName, cn: user, o: group, usage: certificatesv1.UsageClientAuth}
}

// request sends the wish.
func (m machine) request(ctx context.Context, w certWish) (*certificatesv1.CertificateSigningRequest, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: w.cn, Organization: []string{w.o}}, DNSNames: w.names}
	for _, a := range w.addrs {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, m.key)
	if err != nil {
		return nil, err
	}
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: w.signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, w.usage},
		},
	}
	if w.proof {
		key, proof, err := m.identity.Sign(der)
		if err != nil {
			return nil, err
		}
		csr.Annotations = map[string]string{nodeid.KeyAnnotation: key, nodeid.ProofAnnotation: proof}
	}
	return m.client.CertificatesV1().CertificateSigningRequests().Create(ctx, csr, metav1.CreateOptions{})
}

// ask sends the wish and waits for the certificate or the denial.
func (m machine) ask(ctx context.Context, w certWish) (cert []byte, denied *certificatesv1.CertificateSigningRequestCondition) {
	m.t.Helper()
	csr, err := m.request(ctx, w)
	if err != nil {
		m.t.Fatalf("ask for %+v: %v", w, err)
	}
	return m.answer(ctx, csr.Name)
}

func (m machine) answer(ctx context.Context, name string) (cert []byte, denied *certificatesv1.CertificateSigningRequestCondition) {
	m.t.Helper()
	await(ctx, m.t, m.client.CertificatesV1().CertificateSigningRequests(), name, func(csr *certificatesv1.CertificateSigningRequest) string {
		cert = csr.Status.Certificate
		for i, cond := range csr.Status.Conditions {
			if cond.Type == certificatesv1.CertificateDenied {
				denied = &csr.Status.Conditions[i]
			}
		}
		if len(cert) == 0 && denied == nil {
			return fmt.Sprintf("neither certificate nor denial: %+v", csr.Status.Conditions)
		}
		return ""
	})
	return cert, denied
}

// join asks for the kubelet's certificate, which must be granted, and returns
// the machine as the node.
func (m machine) join(ctx context.Context, c *cluster, node string) machine {
	m.t.Helper()
	cert, denied := m.ask(ctx, kubeletWish(node))
	if denied != nil {
		m.t.Fatalf("join as %s: %s: %s", node, denied.Reason, denied.Message)
	}
	key, err := x509.MarshalECPrivateKey(m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(c.config)
	cfg.CertData, cfg.KeyData = cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})
	m.client = newClient(m.t, cfg)
	return m
}

// refused asks for what must be denied, with a text.
func (m machine) refused(ctx context.Context, w certWish, reason, says string) {
	m.t.Helper()
	csr, err := m.request(ctx, w)
	if apierrors.IsForbidden(err) && reason == noderecord.ReasonRefused {
		return // by upstream's NodeRestriction, which knows some of the rules, too
	}
	if err != nil {
		m.t.Errorf("ask for %+v: %v", w, err)
		return
	}
	_, denied := m.answer(ctx, csr.Name)
	if denied == nil {
		m.t.Errorf("%+v was granted", w)
		return
	}
	if denied.Reason != reason || !strings.Contains(denied.Message, says) {
		m.t.Errorf("%+v: denied with %s: %q, want %s and a text that says %q", w, denied.Reason, denied.Message, reason, says)
	}
}

// TestNodeCertificates: a thief with a join token, or with the whole of another
// node, gets nothing that belongs to a node.
func TestNodeCertificates(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	c := s.cluster
	token := c.joinToken(s.ctx, t, "e2ethf")
	server := c.nodeIP(t, node1)

	t.Run("a join token gets a free name only", func(t *testing.T) {
		first := newMachine(t, token)
		var took []time.Duration
		for range 5 { // again and again, as after its data directory was deleted
			begin := time.Now()
			first.join(s.ctx, c, "certs-a")
			took = append(took, time.Since(begin).Round(time.Millisecond))
		}
		t.Logf("from the request to the certificate: %v", took)
		thief := newMachine(t, token)
		thief.refused(s.ctx, kubeletWish("certs-a"), noderecord.ReasonNameTaken, "limpet node rejoin certs-a")
		thief.refused(s.ctx, kubeletWish(node1), noderecord.ReasonNameTaken, "that of the server itself")
		eventAbout(s.ctx, t, c, "about the refused name", func(e *corev1.Event) bool {
			return e.Reason == "NodeNameRefused" && e.InvolvedObject.Name == "certs-a" && e.InvolvedObject.Kind == "Node"
		})
	})

	t.Run("a join token gets nothing else", func(t *testing.T) {
		thief := newMachine(t, token)
		noProof := kubeletWish("certs-b")
		noProof.proof = false
		admin := kubeletWish("certs-b")
		admin.o = "system:masters"
		named := kubeletWish("certs-b")
		named.addrs = []string{server}
		for says, w := range map[string]certWish{
			"did not prove":            noProof,
			"O=system:nodes":           admin,
			"no alternative names":     named,
			"name of the API server":   kubeletWish("kubernetes.default.svc"),
			"not a valid node name":    kubeletWish("Certs_B"),
			"signer kubernetes.io/kub": servingWish("certs-b", []string{"certs-b"}, nil),
		} {
			thief.refused(s.ctx, w, noderecord.ReasonRefused, says)
		}
		thief.refused(s.ctx, agentWish("limpet:network:"+node1, "limpet:network"), noderecord.ReasonRefused, "kubelet's client certificate only")
		if _, err := c.client.CoreV1().Secrets("kube-system").Get(s.ctx, noderecord.SecretName("certs-b"), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("a refused request left a record: %v", err)
		}
	})

	t.Run("of many that ask at once, one gets the name", func(t *testing.T) {
		const many = 8
		machines := make([]machine, many)
		for i := range machines {
			machines[i] = newMachine(t, token)
		}
		requests := make([]string, many)
		var wg sync.WaitGroup
		for i, m := range machines {
			wg.Go(func() {
				csr, err := m.request(s.ctx, kubeletWish("certs-race"))
				if err != nil {
					t.Error(err)
					return
				}
				requests[i] = csr.Name
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		won := 0
		for i, m := range machines {
			cert, denied := m.answer(s.ctx, requests[i])
			switch {
			case denied == nil && len(cert) > 0:
				won++
			case denied.Reason != noderecord.ReasonNameTaken:
				t.Errorf("denied with %s: %s", denied.Reason, denied.Message)
			}
		}
		if won != 1 {
			t.Errorf("%d of %d got the name", won, many)
		}
	})

	t.Run("a node gets certificates for itself only", func(t *testing.T) {
		node := newMachine(t, token).join(s.ctx, c, "certs-c")
		object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "certs-c"}}
		nodes := node.client.CoreV1().Nodes()
		created := must[*corev1.Node](s.with(t))(nodes.Create(s.ctx, object, metav1.CreateOptions{}))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = c.client.CoreV1().Nodes().Delete(ctx, "certs-c", metav1.DeleteOptions{})
		})

		// What it asks for before its addresses are known waits for them.
		early := must[*certificatesv1.CertificateSigningRequest](s.with(t))(
			node.request(s.ctx, servingWish("certs-c", []string{"certs-c"}, []string{"192.0.2.7"})))
		created.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeHostName, Address: "certs-c"},
			// A stolen node may say what it likes of itself.
			{Type: corev1.NodeInternalIP, Address: server}, {Type: corev1.NodeInternalIP, Address: "10.43.0.1"},
			{Type: corev1.NodeHostName, Address: "kubernetes.default.svc"},
		}
		eventually(s.ctx, t, "the node writes its status", func() error {
			current, err := nodes.Get(s.ctx, "certs-c", metav1.GetOptions{})
			if err != nil {
				return err
			}
			current.Status.Addresses = created.Status.Addresses
			_, err = nodes.UpdateStatus(s.ctx, current, metav1.UpdateOptions{})
			return err
		})
		if _, denied := node.answer(s.ctx, early.Name); denied != nil {
			t.Errorf("its own address was denied: %s", denied.Message)
		}

		if _, denied := node.ask(s.ctx, kubeletWish("certs-c")); denied != nil {
			t.Errorf("renewal denied: %s", denied.Message)
		}
		for _, group := range []string{"limpet:kube-proxy", "limpet:network", "limpet:dns"} {
			if _, denied := node.ask(s.ctx, agentWish(group+":certs-c", group)); denied != nil {
				t.Errorf("%s denied: %s", group, denied.Message)
			}
			node.refused(s.ctx, agentWish(group+":"+node1, group), noderecord.ReasonRefused, "own node agents only")
		}
		for _, w := range []certWish{
			kubeletWish(node1), kubeletWish("certs-free"),
			agentWish("limpet:approver", "limpet:approver"), agentWish("admin", "limpet:network"),
			servingWish(node1, []string{node1}, nil),
			servingWish("certs-c", []string{node1}, nil),
			servingWish("certs-c", []string{"kubernetes.default.svc"}, nil),
			servingWish("certs-c", nil, []string{server}),
			servingWish("certs-c", nil, []string{"10.43.0.1"}),
			servingWish("certs-c", nil, []string{"127.0.0.1"}),
		} {
			node.refused(s.ctx, w, noderecord.ReasonRefused, "")
		}
	})

	t.Run("a stolen node stays away from pods", func(t *testing.T) {
		node := newMachine(t, token).join(s.ctx, c, "certs-d")
		nodes := node.client.CoreV1().Nodes()
		must[*corev1.Node](s.with(t))(nodes.Create(s.ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "certs-d"}}, metav1.CreateOptions{}))
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_ = c.client.CoreV1().Nodes().Delete(ctx, "certs-d", metav1.DeleteOptions{})
		})
		s.with(t).kubectl("taint", "node", "certs-d", "stolen=true:NoExecute")
		_, err := nodes.Patch(s.ctx, "certs-d", types.MergePatchType, []byte(`{"spec":{"taints":[]}}`), metav1.PatchOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("it takes its taint off: %v", err)
		}
		if err := nodes.Delete(s.ctx, "certs-d", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("it deletes its Node: %v", err)
		}
	})

	t.Run("what is the administrator's is left alone", func(t *testing.T) {
		admin := newMachine(t, c.client)
		csr := must[*certificatesv1.CertificateSigningRequest](s.with(t))(admin.request(s.ctx, kubeletWish("certs-admin")))
		// The next decision comes after it in the approver's queue.
		newMachine(t, token).join(s.ctx, c, "certs-after")
		csr = must[*certificatesv1.CertificateSigningRequest](s.with(t))(c.client.CertificatesV1().CertificateSigningRequests().Get(s.ctx, csr.Name, metav1.GetOptions{}))
		if len(csr.Status.Conditions) > 0 {
			t.Errorf("decided: %+v", csr.Status.Conditions)
		}
	})
}
