package approve

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/noderecord"
)

const (
	nodesGroup     = "system:nodes"
	nodeUserPrefix = "system:node:"
)

// bootstrapGroups are the groups of join tokens.
func bootstrapGroups() []string {
	return []string{"system:bootstrappers:limpet:agents", "system:bootstrappers:limpet:servers"}
}

// agentGroups are the node agents' groups. The user of each is GROUP:NODE.
func agentGroups() []string { return []string{"limpet:kube-proxy", "limpet:network", "limpet:dns"} }

// Policy is what does not belong to any node that asks. Names are lower case.
type Policy struct {
	// OwnNode is the name of the server's own node; empty without one.
	OwnNode string
	// Names and Addrs are those of the API server's certificate.
	Names []string
	Addrs []netip.Addr
	// Ranges are those of pods and Services.
	Ranges []netip.Prefix
	// Domain is the cluster's DNS domain.
	Domain string
}

// Verdict is what becomes of a request.
type Verdict string

// The verdicts.
const (
	// Ignore: not ours to decide, or decided already.
	Ignore  Verdict = "ignore"
	Approve Verdict = "approve"
	Deny    Verdict = "deny"
	// Wait: what the request needs is not so now, but may be in a moment.
	Wait Verdict = "wait"
)

// Decision is the verdict on a request and its reason.
type Decision struct {
	Verdict Verdict
	// Reason is a word for programs, of package noderecord for Deny; Message
	// says it in sentences to the person whose machine asked.
	Reason, Message string
	// Record is to be written before the request is approved; nil: none.
	Record *noderecord.Record
	// Until is when a Wait becomes a Deny.
	Until time.Time
}

func ignore() *Decision { return &Decision{Verdict: Ignore} }

func refuse(format string, args ...any) *Decision {
	return &Decision{Verdict: Deny, Reason: noderecord.ReasonRefused, Message: fmt.Sprintf(format, args...)}
}

// Kind is what a request asks for.
type Kind string

// The kinds of requests.
const (
	// Join: the kubelet's first certificate, by the holder of a join token.
	Join Kind = "join"
	// Renewal: the kubelet's next certificate, by the node.
	Renewal Kind = "renewal"
	// Serving: the certificate that the kubelet serves with, by the node.
	Serving Kind = "serving"
	// Agent: the certificate of a node agent, by the node.
	Agent Kind = "agent"
)

// Request is a well-formed request of a known kind. Whether it is granted
// depends on what the cluster knows of the node: see Judge.
type Request struct {
	Kind Kind
	// Node is whose certificate it is to be. It is a valid node name.
	Node string
	// Fingerprint is that of the identity key that proved to be behind the
	// request. Empty without a proof, which only a Join must have.
	Fingerprint string

	created time.Time
	names   []string     // of a Serving request: its DNS names
	addrs   []netip.Addr // and its addresses
}

// Inspect looks at everything that the request alone tells. It returns either a
// request to be judged, or the decision if that is clear already.
func Inspect(csr *certificatesv1.CertificateSigningRequest, policy Policy) (Request, *Decision) {
	if decided(csr) || !ourSigner(csr.Spec.SignerName) {
		return Request{}, ignore()
	}
	asker, isNode := nodeOf(csr.Spec)
	if !isNode && !hasGroup(csr.Spec.Groups, bootstrapGroups()...) {
		return Request{}, ignore()
	}
	parsed, d := parse(csr.Spec)
	if d != nil {
		return Request{}, d
	}
	r := Request{created: csr.CreationTimestamp.Time}
	switch {
	case csr.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName:
		d = r.kubeletClient(csr, parsed, asker, policy)
	case !isNode:
		d = refuse("A join token lets a machine ask for its kubelet's client certificate only, not for one of signer %s.", csr.Spec.SignerName)
	case csr.Spec.SignerName == certificatesv1.KubeletServingSignerName:
		d = r.serving(csr.Spec, parsed, asker)
	default:
		d = r.agent(csr.Spec, parsed, asker)
	}
	if d != nil {
		return r, d
	}
	return r, r.proof(csr, parsed)
}

// kubeletClient fills in a Join or a Renewal.
func (r *Request) kubeletClient(csr *certificatesv1.CertificateSigningRequest, p *request, asker string, policy Policy) *Decision {
	name, d := p.nodeSubject()
	if d != nil {
		return d
	}
	if d := p.noNames(); d != nil {
		return d
	}
	if !exactUsages(csr.Spec.Usages, certificatesv1.UsageClientAuth) {
		return refuse("The usages of a kubelet's client certificate are digital signature and client auth (and key encipherment with an RSA key), not %s.", quoteUsages(csr.Spec.Usages))
	}
	r.Kind, r.Node = Join, name
	if asker != "" {
		r.Kind = Renewal
		if asker != name {
			return refuse("Node %s asked for the certificate of node %s; a node gets certificates for itself only.", asker, name)
		}
		return nil
	}
	if problem := policy.nodeName(name); problem != "" {
		return refuse("The node name %s cannot be used: %s. Choose another with --node-name.", name, problem)
	}
	return nil
}

// serving fills in a Serving request.
func (r *Request) serving(spec certificatesv1.CertificateSigningRequestSpec, p *request, asker string) *Decision {
	name, d := p.nodeSubject()
	if d != nil {
		return d
	}
	r.Kind, r.Node = Serving, name
	if asker != name {
		return refuse("Node %s asked for the serving certificate of node %s; a node gets certificates for itself only.", asker, name)
	}
	if !exactUsages(spec.Usages, certificatesv1.UsageServerAuth) {
		return refuse("The usages of a kubelet's serving certificate are digital signature and server auth (and key encipherment with an RSA key), not %s.", quoteUsages(spec.Usages))
	}
	r.names, r.addrs, d = p.serverNames()
	return d
}

// agent fills in an Agent request.
func (r *Request) agent(spec certificatesv1.CertificateSigningRequestSpec, p *request, asker string) *Decision {
	r.Kind, r.Node = Agent, asker
	user, group, ok := p.subject()
	if !ok || !slices.Contains(agentGroups(), group) || user != group+":"+asker {
		return refuse("Node %s may ask for the client certificates of its own node agents only: user limpet:kube-proxy:%[1]s, limpet:network:%[1]s or limpet:dns:%[1]s, each in the group of the same name without the node; it asked for %s.",
			asker, p.describeSubject())
	}
	if d := p.noNames(); d != nil {
		return d
	}
	allowed := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth}
	for _, u := range spec.Usages {
		if !slices.Contains(allowed, u) {
			return refuse("The certificate of a node agent is for client auth only, not for %s.", quoteUsages(spec.Usages))
		}
	}
	if !slices.Contains(spec.Usages, certificatesv1.UsageClientAuth) {
		return refuse("The certificate of a node agent is for client auth, which is missing in %s.", quoteUsages(spec.Usages))
	}
	return nil
}

// proof checks the annotations in which a machine proves its identity key.
func (r *Request) proof(csr *certificatesv1.CertificateSigningRequest, p *request) *Decision {
	key, proof := csr.Annotations[nodeid.KeyAnnotation], csr.Annotations[nodeid.ProofAnnotation]
	if key == "" && proof == "" && r.Kind != Join {
		return nil
	}
	fingerprint, err := nodeid.Verify(p.der, key, proof)
	if err != nil {
		return refuse("The machine that asked for the name %s did not prove its identity key: %v.", r.Node, err)
	}
	r.Fingerprint = fingerprint
	return nil
}

// nodeName says what is wrong with a name for a node that joins; "" if nothing
// is. The kubelet serves under its node's name, so that a node called as the API
// server is could pass for it.
func (p Policy) nodeName(name string) string {
	if problem := p.hostName(name); problem != "" {
		return problem
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		return p.address(addr)
	}
	return ""
}

// hostName says why no certificate of a node may have a DNS name; "" if it may.
func (p Policy) hostName(name string) string {
	switch {
	case name == p.OwnNode: // more is said of it in Judge
		return ""
	case slices.Contains(p.Names, name):
		return "it is a name of the API server"
	case name == "localhost", strings.HasSuffix(name, ".localhost"):
		return "it means the machine itself"
	case name == p.Domain, p.Domain != "" && strings.HasSuffix(name, "."+p.Domain), name == "svc", strings.HasSuffix(name, ".svc"):
		return "it is a name of Services or pods"
	}
	return ""
}

// address says why no certificate of a node may have an address; "" if it may.
func (p Policy) address(addr netip.Addr) string {
	switch {
	case slices.Contains(p.Addrs, addr):
		return "it is an address of the API server"
	case addr.IsLoopback(), addr.IsUnspecified(), addr.IsMulticast(), addr.IsLinkLocalUnicast():
		return "it is not an address of one machine"
	case slices.ContainsFunc(p.Ranges, func(r netip.Prefix) bool { return r.Contains(addr) }):
		return "it is an address of Services or pods"
	}
	return ""
}

// decided reports whether there is nothing to do any more.
func decided(csr *certificatesv1.CertificateSigningRequest) bool {
	return len(csr.Status.Certificate) > 0 || slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied ||
			c.Type == certificatesv1.CertificateFailed && c.Status == corev1.ConditionTrue
	})
}

func ourSigner(name string) bool {
	return name == certificatesv1.KubeAPIServerClientKubeletSignerName ||
		name == certificatesv1.KubeletServingSignerName || name == certificatesv1.KubeAPIServerClientSignerName
}

// nodeOf is the node that asked; "" if none did.
func nodeOf(spec certificatesv1.CertificateSigningRequestSpec) (string, bool) {
	name, ok := strings.CutPrefix(spec.Username, nodeUserPrefix)
	if !ok || !hasGroup(spec.Groups, nodesGroup) || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "", false
	}
	return name, true
}

func hasGroup(groups []string, any ...string) bool {
	return slices.ContainsFunc(any, func(g string) bool { return slices.Contains(groups, g) })
}

// exactUsages reports whether usages are what upstream's signer takes of a
// kubelet: digital signature, the purpose, and key encipherment or not.
func exactUsages(usages []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) bool {
	has := func(u certificatesv1.KeyUsage) bool { return slices.Contains(usages, u) }
	want := 2
	if has(certificatesv1.UsageKeyEncipherment) {
		want = 3
	}
	return len(usages) == want && has(certificatesv1.UsageDigitalSignature) && has(purpose)
}

func quoteUsages(usages []certificatesv1.KeyUsage) string {
	list := make([]string, 0, len(usages))
	for _, u := range usages {
		list = append(list, fmt.Sprintf("%q", string(u)))
	}
	return clip(strings.Join(list, ", "))
}
