package approve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/nodeid"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func testPolicy() Policy {
	return Policy{
		OwnNode: "mast", Domain: "cluster.local",
		Names: []string{"localhost", "mast", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "api.example.com"},
		Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.43.0.1")},
		Ranges: []netip.Prefix{
			netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:42::/56"),
		},
	}
}

// wish is a request as somebody may send it.
type wish struct {
	user, signer  string
	groups        []string
	subject       pkix.Name
	names, addrs  []string
	mails         []string
	usages        []certificatesv1.KeyUsage
	expiration    *int32
	key           any               // nil: ECDSA P-256
	identity      *nodeid.Key       // nil: no proof
	alter         func(der []byte)  // before it becomes PEM, after it was proved
	alterAnnotate map[string]string // replaces the annotations
}

func bootstrapper() (string, []string) {
	return "system:bootstrap:abcdef", []string{"system:bootstrappers", "system:bootstrappers:limpet:agents", "system:authenticated"}
}

func nodeUser(node string) (string, []string) {
	return "system:node:" + node, []string{"system:nodes", "system:authenticated"}
}

func joinWish(node string, identity *nodeid.Key) wish {
	user, groups := bootstrapper()
	return wish{
		user: user, groups: groups, signer: certificatesv1.KubeAPIServerClientKubeletSignerName, identity: identity,
		subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		usages:  []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
	}
}

func renewalWish(node string) wish {
	w := joinWish(node, nil)
	w.user, w.groups = nodeUser(node)
	return w
}

func servingWish(node string, names, addrs []string) wish {
	w := renewalWish(node)
	w.signer = certificatesv1.KubeletServingSignerName
	w.names, w.addrs = names, addrs
	w.usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	return w
}

func agentWish(node, group string) wish {
	w := renewalWish(node)
	w.signer = certificatesv1.KubeAPIServerClientSignerName
	w.subject = pkix.Name{CommonName: group + ":" + node, Organization: []string{group}}
	return w
}

func (w wish) with(change func(*wish)) wish {
	change(&w)
	return w
}

func (w wish) csr(t testing.TB) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key := w.key
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	template := &x509.CertificateRequest{Subject: w.subject, DNSNames: w.names}
	template.EmailAddresses = w.mails
	for _, a := range w.addrs {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{
		Name: "csr-1", CreationTimestamp: metav1.NewTime(now),
	}}
	if w.identity != nil {
		key, proof, err := w.identity.Sign(der)
		if err != nil {
			t.Fatal(err)
		}
		csr.Annotations = map[string]string{nodeid.KeyAnnotation: key, nodeid.ProofAnnotation: proof}
	}
	if w.alterAnnotate != nil {
		csr.Annotations = w.alterAnnotate
	}
	if w.alter != nil {
		w.alter(der)
	}
	csr.Spec = certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: w.signer, Username: w.user, Groups: w.groups, Usages: w.usages, ExpirationSeconds: w.expiration,
	}
	return csr
}

func newIdentity(t testing.TB) *nodeid.Key {
	t.Helper()
	key, err := nodeid.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return &key
}

func fingerprint(t testing.TB, k *nodeid.Key) string {
	t.Helper()
	f, err := k.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func testNode(name string, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "node-uid"}}
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
	return n
}
