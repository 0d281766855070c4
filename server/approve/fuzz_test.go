package approve

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/noderecord"
)

// FuzzDecide sends hostile requests against a cluster with a node "shop-1" of
// another machine, in which a thief also has the identity of node "shop-2".
// Whatever is approved must be what the rules name, looked at anew.
func FuzzDecide(f *testing.F) {
	me := newIdentity(f)
	for _, w := range []wish{
		joinWish("shop-3", me), joinWish("shop-1", me), renewalWish("shop-2"), agentWish("shop-2", "limpet:dns"),
		servingWish("shop-2", []string{"shop-2"}, []string{"10.0.0.8"}), servingWish("shop-2", nil, []string{"10.0.0.1"}),
	} {
		csr := w.csr(f)
		block, _ := pem.Decode(csr.Spec.Request)
		f.Add(block.Bytes, csr.Spec.Username == "system:node:shop-2", csr.Spec.SignerName, joinUsages(csr.Spec.Usages),
			csr.Annotations[nodeid.KeyAnnotation], csr.Annotations[nodeid.ProofAnnotation], int32(3600))
	}
	victim, thief := testNode("shop-1", "10.0.0.7"), testNode("shop-2", "10.0.0.8", "10.0.0.1", "10.0.0.7")
	f.Fuzz(func(t *testing.T, der []byte, asNode bool, signer, usages, key, proof string, expiration int32) {
		csr := &certificatesv1.CertificateSigningRequest{}
		csr.Annotations = map[string]string{nodeid.KeyAnnotation: key, nodeid.ProofAnnotation: proof}
		csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		csr.Spec.SignerName, csr.Spec.ExpirationSeconds = signer, &expiration
		csr.Spec.Username, csr.Spec.Groups = bootstrapper()
		if asNode {
			csr.Spec.Username, csr.Spec.Groups = nodeUser("shop-2")
		}
		for _, u := range strings.Split(usages, ",") {
			csr.Spec.Usages = append(csr.Spec.Usages, certificatesv1.KeyUsage(u))
		}
		r, d := Inspect(csr, testPolicy())
		if d == nil {
			s := State{Now: now, Nodes: []*corev1.Node{victim, thief}}
			switch r.Node {
			case "shop-1":
				s.Node, s.Record = victim, &noderecord.Record{Node: "shop-1", Fingerprint: "of the victim"}
			case "shop-2":
				s.Node = thief
			}
			judged := r.Judge(testPolicy(), s)
			d = &judged
		}
		if len(d.Message) > 4096 || strings.ContainsAny(d.Message, "\n\r\x00") {
			t.Errorf("message of %d bytes: %q", len(d.Message), d.Message)
		}
		if d.Verdict == Approve {
			checkApproved(t, csr, der, asNode)
		}
	})
}

func joinUsages(usages []certificatesv1.KeyUsage) string {
	words := make([]string, 0, len(usages))
	for _, u := range usages {
		words = append(words, string(u))
	}
	return strings.Join(words, ",")
}

// checkApproved fails unless the certificate would be harmless.
func checkApproved(t *testing.T, csr *certificatesv1.CertificateSigningRequest, der []byte, asNode bool) {
	t.Helper()
	p, err := x509.ParseCertificateRequest(der)
	if err != nil || p.CheckSignature() != nil {
		t.Fatalf("approved what cannot be read or is not signed: %v", err)
	}
	cn, o := p.Subject.CommonName, p.Subject.Organization
	names, serves := len(p.DNSNames)+len(p.IPAddresses), slices.Contains(csr.Spec.Usages, certificatesv1.UsageServerAuth)
	if len(o) != 1 || len(p.EmailAddresses)+len(p.URIs) > 0 || serves != (csr.Spec.SignerName == certificatesv1.KubeletServingSignerName) || serves != (names > 0) {
		t.Fatalf("approved %v %v for %v, %v", p.Subject, o, csr.Spec.Usages, csr.Spec.SignerName)
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeletServingSignerName:
		for _, n := range p.DNSNames {
			if n != "shop-2" {
				t.Fatalf("approved to serve as %s", n)
			}
		}
		for _, a := range p.IPAddresses {
			if a.String() != "10.0.0.8" {
				t.Fatalf("approved to serve on %s", a)
			}
		}
		fallthrough
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if o[0] != "system:nodes" || !strings.HasPrefix(cn, "system:node:") || cn == "system:node:shop-1" || cn == "system:node:mast" || asNode && cn != "system:node:shop-2" {
			t.Fatalf("approved %v", p.Subject)
		}
	case certificatesv1.KubeAPIServerClientSignerName:
		if !asNode || cn != o[0]+":shop-2" || !slices.Contains(agentGroups(), o[0]) {
			t.Fatalf("approved %v", p.Subject)
		}
	default:
		t.Fatalf("approved for signer %s", csr.Spec.SignerName)
	}
}
