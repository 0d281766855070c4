package server

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/pki"
)

// frontProxyName is the common name by which aggregated API servers know that a
// request comes through the apiserver.
const frontProxyName = "system:auth-proxy"

// identity is a client of the apiserver: its certificate, and a kubeconfig that
// names the certificate by path.
type identity struct {
	pki.KeyPair
	Kubeconfig string
}

// Certificates are the paths of everything under <data>/server/tls, and of the
// kubeconfigs under <data>/server/cred.
type Certificates struct {
	// What others are verified with, and the keys that sign.
	ServerCA, ServerCAKey string
	ClientCA, ClientCAKey string
	RequestHeaderCA       string
	// The signing certificate alone, for the controller-manager: the same as
	// ServerCA and ClientCA unless the user's own authority has a chain.
	ServerCASigner, ClientCASigner string
	ServiceAccountKey              string

	APIServer      pki.KeyPair // serves on 6443
	KubeletClient  pki.KeyPair // the apiserver towards kubelets
	FrontProxy     pki.KeyPair // the apiserver towards aggregated API servers
	KubeletServing pki.KeyPair // this node's kubelet serves on 10250; empty without an agent

	Admin             identity
	ControllerManager identity
	Scheduler         identity
	Deploy            identity
	DNSEndpoints      identity
	Approver          identity
	Upgrades          identity
	// The node of this process; empty without an agent.
	Kubelet identity
	Proxy   identity
	Network identity
	DNS     identity
}

// wantedCert is one line of the table of certificates.
type wantedCert struct {
	ca   *pki.CA
	name string // of the file
	leaf pki.Leaf
	pair *pki.KeyPair
	// kubeconfig is where the path of the identity's kubeconfig goes; nil: none
	// is written.
	kubeconfig *string
}

// certificatePaths tells where ensureCertificates will put everything, before
// anything is there: arguments that name these files are checked first.
func certificatePaths(cfg config.Server, tlsDir string) *Certificates {
	ca := func(name string) (cert, key string) {
		base := filepath.Join(tlsDir, name)
		return base + ".crt", base + ".key"
	}
	c := &Certificates{ServiceAccountKey: filepath.Join(tlsDir, "service-account.key")}
	c.ServerCA, c.ServerCAKey = ca("server-ca")
	c.ClientCA, c.ClientCAKey = ca("client-ca")
	c.RequestHeaderCA, _ = ca("request-header-ca")
	c.ServerCASigner, c.ClientCASigner = c.ServerCA, c.ClientCA
	for _, w := range wantedCerts(cfg, &pki.Authority{}, c) {
		path := filepath.Join(tlsDir, w.name+".pem")
		*w.pair = pki.KeyPair{Cert: path, Key: path}
		if w.kubeconfig != nil {
			*w.kubeconfig = kubeconfigPath(tlsDir, w.name)
		}
	}
	return c
}

func kubeconfigPath(tlsDir, name string) string {
	return filepath.Join(filepath.Dir(tlsDir), "cred", name+".kubeconfig")
}

// ensureCertificates creates or renews everything that the control plane and
// this process's node show and trust, in tlsDir (<data>/server/tls), and writes
// the kubeconfigs of the components beside it (<data>/server/cred). cfg is
// complete: node name, addresses and ranges are known.
func ensureCertificates(cfg config.Server, tlsDir string, now time.Time, log *slog.Logger) (*Certificates, error) {
	authority, err := pki.Open(tlsDir, pki.Options{Now: now, Logger: log})
	if err != nil {
		return nil, err
	}
	c := &Certificates{
		ServerCA: authority.Server.File(), ServerCAKey: authority.Server.KeyFile(), ServerCASigner: authority.Server.SignerFile(),
		ClientCA: authority.Client.File(), ClientCAKey: authority.Client.KeyFile(), ClientCASigner: authority.Client.SignerFile(),
		RequestHeaderCA:   authority.RequestHeader.File(),
		ServiceAccountKey: filepath.Join(tlsDir, "service-account.key"),
	}
	credDir := filepath.Join(filepath.Dir(tlsDir), "cred")
	if err := os.MkdirAll(credDir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of kubeconfigs: %w", err)
	}

	wanted := wantedCerts(cfg, authority, c)
	errs := make([]error, len(wanted)+1)
	var wg sync.WaitGroup
	for i, w := range wanted { // side by side: the time goes into fsync
		wg.Go(func() { errs[i] = w.ensure(credDir, apiserverURL(cfg), c.ServerCA, log) })
	}
	wg.Go(func() { errs[len(wanted)] = pki.ServiceAccountKey(c.ServiceAccountKey) })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c, nil
}

// ensure issues one certificate if need be and writes its kubeconfig.
func (w wantedCert) ensure(credDir, server, serverCA string, log *slog.Logger) error {
	issued, err := w.ca.Ensure(w.name, w.leaf)
	if err != nil {
		return err
	}
	*w.pair = issued.KeyPair
	if issued.Reason != "" {
		log.Info("issued a certificate", "certificate", w.name, "reason", issued.Reason)
	}
	if w.kubeconfig == nil {
		return nil
	}
	data, err := pki.Kubeconfig(pki.KubeconfigSpec{Server: server, CAFile: serverCA, Client: issued.KeyPair})
	if err != nil {
		return fmt.Errorf("kubeconfig of %s: %w", w.name, err)
	}
	*w.kubeconfig = filepath.Join(credDir, w.name+".kubeconfig")
	_, err = atomicfile.WriteIfChanged(*w.kubeconfig, data, 0o600)
	return err
}

// wantedCerts lists every identity with the least that it needs; the roles of
// the limpet: users are in manifests/rbac.yaml, those of the others come with
// Kubernetes.
func wantedCerts(cfg config.Server, a *pki.Authority, c *Certificates) []wantedCert {
	client := func(name string, id *identity, user string, groups ...string) wantedCert {
		return wantedCert{ca: a.Client, name: name, leaf: clientLeaf(user, groups...), pair: &id.KeyPair, kubeconfig: &id.Kubeconfig}
	}
	part := func(name, part string, id *identity) wantedCert {
		user, group := agent.PartUser(part, cfg.NodeName)
		return client(name, id, user, group)
	}
	list := []wantedCert{
		{ca: a.Server, name: "kube-apiserver", leaf: apiserverLeaf(cfg), pair: &c.APIServer},
		{ca: a.Client, name: "kube-apiserver-kubelet-client", leaf: clientLeaf("kube-apiserver-kubelet-client"), pair: &c.KubeletClient},
		{ca: a.RequestHeader, name: "front-proxy-client", leaf: clientLeaf(frontProxyName), pair: &c.FrontProxy},
		client("admin", &c.Admin, "system:admin", "system:masters"),
		client("kube-controller-manager", &c.ControllerManager, "system:kube-controller-manager"),
		client("kube-scheduler", &c.Scheduler, "system:kube-scheduler"),
		// Whoever applies arbitrary manifests can do everything anyway. It is
		// the group and no role binding, since it is what applies those.
		client("limpet-deploy", &c.Deploy, "limpet:deploy", "system:masters"),
		client("limpet-dns-endpoints", &c.DNSEndpoints, "limpet:dns-endpoints"),
		client("limpet-approver", &c.Approver, "limpet:approver"),
		client("limpet-upgrades", &c.Upgrades, "limpet:upgrades"),
	}
	if cfg.DisableAgent {
		return list
	}
	return append(list,
		wantedCert{ca: a.Server, name: "kubelet-serving", leaf: kubeletServingLeaf(cfg.Node), pair: &c.KubeletServing},
		client("kubelet", &c.Kubelet, "system:node:"+cfg.NodeName, "system:nodes"),
		part("kube-proxy", agent.ProxyPart, &c.Proxy),
		part("limpet-dns", agent.DNSPart, &c.DNS),
		part("limpet-network", agent.NetworkPart, &c.Network),
	)
}

func clientLeaf(user string, groups ...string) pki.Leaf {
	return pki.Leaf{CommonName: user, Organizations: groups, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// apiserverLeaf names everything by which the apiserver is called: on this
// machine, by its node's name and addresses, as the Service "kubernetes", and
// as the user says (tls-san).
func apiserverLeaf(cfg config.Server) pki.Leaf {
	leaf := pki.Leaf{
		CommonName: "kube-apiserver",
		DNSNames: []string{
			"localhost", cfg.NodeName,
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + cfg.ClusterDomain,
		},
		IPs:    append(slices.Concat(loopbacks(), cfg.NodeIP, cfg.NodeExternalIP), cfg.AdvertiseAddress),
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if !cfg.BindAddress.IsUnspecified() {
		leaf.IPs = append(leaf.IPs, cfg.BindAddress)
	}
	for _, r := range cfg.ServiceCIDR {
		leaf.IPs = append(leaf.IPs, r.Masked().Addr().Next())
	}
	for _, san := range cfg.TLSSANs {
		if ip, err := netip.ParseAddr(san); err == nil {
			leaf.IPs = append(leaf.IPs, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, strings.ToLower(san))
		}
	}
	return leaf
}

func kubeletServingLeaf(node config.Node) pki.Leaf {
	return pki.Leaf{
		CommonName:    "system:node:" + node.NodeName,
		Organizations: []string{"system:nodes"},
		DNSNames:      []string{node.NodeName, "localhost"},
		IPs:           slices.Concat(loopbacks(), node.NodeIP, node.NodeExternalIP),
		Usages:        []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func loopbacks() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
}

// apiserverURL is how the components of this process reach the apiserver.
func apiserverURL(cfg config.Server) string {
	host := cfg.BindAddress
	switch {
	case host.IsUnspecified() && host.Is6():
		host = netip.IPv6Loopback()
	case host.IsUnspecified() || !host.IsValid():
		host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return "https://" + net.JoinHostPort(host.String(), strconv.Itoa(cfg.HTTPSListenPort))
}
