package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"

	"github.com/limpetio/limpet/agent/join"
	"github.com/limpetio/limpet/agent/loadbalancer"
	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/pki"
	"github.com/limpetio/limpet/internal/restart"
	"github.com/limpetio/limpet/internal/status"
)

const identitiesName = "identities"

// The parts of a node that have an identity of their own towards the API
// server, beside the kubelet.
const (
	ProxyPart   = "kube-proxy"
	NetworkPart = "network"
	DNSPart     = "dns"
)

// PartUser is the user name and the group of a part of a node. What the group
// may do is in manifests/rbac.yaml.
func PartUser(part, nodeName string) (user, group string) {
	group = "limpet:" + part
	return group + ":" + nodeName, group
}

// The identities of a node by the names of their files.
const (
	kubeletIdentity = join.Kubelet
	proxyIdentity   = ProxyPart
	networkIdentity = NetworkPart
	dnsIdentity     = DNSPart
)

// identities obtains the certificates of the node's parts, with the kubelet's
// identity, and renews all of them, the kubelet's included, while the node
// runs. Clients read the files anew by themselves (client-go does within five
// minutes), so that nothing has to restart.
//
// The kubelet's own renewal is not used: it looks every ten seconds, and ends
// the process when a certificate has expired.
type identities struct {
	list []*identity
	key  nodeid.Key // the machine's, with which requests are proved
}

// identity is one certificate and its kubeconfig.
type identity struct {
	name   string
	user   string
	group  string
	signer string
	files  join.Files
}

// newIdentities writes the kubeconfigs, which name the certificates' files.
func newIdentities(nodeName string, files join.Files, withProxy bool, key nodeid.Key) (*identities, error) {
	ids := &identities{key: key, list: []*identity{{
		name: kubeletIdentity, user: "system:node:" + nodeName, group: "system:nodes",
		signer: certificatesv1.KubeAPIServerClientKubeletSignerName, files: files,
	}}}
	parts := []string{networkIdentity, dnsIdentity}
	if withProxy {
		parts = append(parts, proxyIdentity)
	}
	for _, part := range parts {
		user, group := PartUser(part, nodeName)
		ids.list = append(ids.list, &identity{name: part, user: user, group: group, signer: certificatesv1.KubeAPIServerClientSignerName, files: files})
	}
	for _, id := range ids.list {
		if err := id.writeKubeconfig(); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func (id *identity) writeKubeconfig() error {
	path := id.files.Kubeconfig(id.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create directory of kubeconfigs: %w", err)
	}
	pem := id.files.Client(id.name)
	data, err := pki.Kubeconfig(pki.KubeconfigSpec{
		Server: "https://" + loadbalancer.DefaultListen, CAFile: localCA, Client: pki.KeyPair{Cert: pem, Key: pem},
	})
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", id.name, err)
	}
	_, err = atomicfile.WriteIfChanged(path, data, 0o600)
	return err
}

// Name implements component.Component.
func (ids *identities) Name() string { return identitiesName }

// Run is ready when every part has a certificate, and renews them until ctx is done.
func (ids *identities) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, identitiesName)
	managers := make([]certificate.Manager, len(ids.list))
	for i, id := range ids.list {
		m, err := ids.manager(ctx, id)
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", id.name, err)
		}
		managers[i] = m
	}
	for _, m := range managers {
		m.Start()
	}
	if !await(ctx, managers) {
		return nil
	}
	ready()
	<-ctx.Done()
	for _, m := range managers {
		m.Stop()
	}
	return nil
}

// membership is the component that notices that the kubelet's certificate has
// expired, as it does only if no server could be reached for months: the node
// has to join again then.
func membership(files join.Files) component.Component {
	return component.Func("membership", func(ctx context.Context, ready func()) error {
		ready()
		for {
			current, err := (&join.CertStore{Path: files.Client(kubeletIdentity)}).Current()
			if err != nil {
				return fmt.Errorf("the node's certificate: %w", err)
			}
			left := time.Until(current.Leaf.NotAfter)
			if left < 0 {
				return &restart.Needed{Reason: "the node's certificate has expired"}
			}
			select {
			case <-time.After(left + time.Second):
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// await returns true when every manager has a certificate. They have no signal
// for it; on all but the first start they have one from the beginning.
func await(ctx context.Context, managers []certificate.Manager) bool {
	for _, m := range managers {
		for m.Current() == nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return false
			}
		}
	}
	return true
}

func (ids *identities) manager(ctx context.Context, id *identity) (certificate.Manager, error) {
	kubeconfig := id.files.Kubeconfig(kubeletIdentity)
	return certificate.NewManager(&certificate.Config{
		Ctx: &ctx, Name: id.name,
		CertificateStore: &join.CertStore{Path: id.files.Client(id.name)},
		Template:         &x509.CertificateRequest{Subject: pkix.Name{CommonName: id.user, Organization: []string{id.group}}},
		SignerName:       id.signer,
		Usages:           []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) {
			cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return nil, err
			}
			client, err := kubernetes.NewForConfig(cfg)
			return join.Proving(client, ids.key), err
		},
	})
}

// certificates are those of the node's identities, for `limpet status`.
func (ids *identities) certificates() []status.Certificate {
	var out []status.Certificate
	for _, id := range ids.list {
		c := status.Certificate{Name: id.name}
		if pair, err := (&join.CertStore{Path: id.files.Client(id.name)}).Current(); err != nil {
			c.Error = err.Error()
		} else {
			c.Expires = pair.Leaf.NotAfter
			life := c.Expires.Sub(pair.Leaf.NotBefore)
			c.Overdue = time.Until(c.Expires) < life/20 // renewed at 70 to 90 % of it
		}
		out = append(out, c)
	}
	return out
}
