package approve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/noderecord"
)

func TestInspectRefuses(t *testing.T) {
	t.Parallel()
	me, other := newIdentity(t), newIdentity(t)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	seconds := func(s int32) *int32 { return &s }
	join, serve := joinWish("shop-1", me), servingWish("shop-1", []string{"shop-1"}, []string{"10.0.0.7"})
	proxy := agentWish("shop-1", "limpet:kube-proxy")
	user := func(cn string, o ...string) func(*wish) {
		return func(w *wish) { w.subject = pkix.Name{CommonName: cn, Organization: o} }
	}
	usages := func(u ...certificatesv1.KeyUsage) func(*wish) { return func(w *wish) { w.usages = u } }

	for name, c := range map[string]struct {
		wish wish
		says string
	}{
		"join as an administrator":        {join.with(user("system:node:shop-1", "system:masters")), "CN=system:node:NAME,O=system:nodes"},
		"join with another group beside":  {join.with(user("system:node:shop-1", "system:nodes", "system:masters")), "CN=system:node:NAME"},
		"join without group":              {join.with(user("system:node:shop-1")), "CN=system:node:NAME"},
		"join as a person":                {join.with(user("admin", "system:nodes")), "CN=system:node:NAME"},
		"join without a name":             {join.with(user("system:node:", "system:nodes")), "not a valid node name"},
		"join with an invalid name":       {join.with(user("system:node:Shop_1", "system:nodes")), "not a valid node name"},
		"join with a name of two lines":   {join.with(user("system:node:a\nb", "system:nodes")), "not a valid node name"},
		"join with a country":             {join.with(func(w *wish) { w.subject.Country = []string{"DE"} }), "nothing else"},
		"join as the apiserver":           {joinWish("kubernetes.default.svc", me), "name of the API server"},
		"join as what tls-san names":      {joinWish("api.example.com", me), "name of the API server"},
		"join as localhost":               {joinWish("localhost", me), "API server"},
		"join as a Service":               {joinWish("kube-dns.kube-system.svc", me), "Services or pods"},
		"join as a Service, whole name":   {joinWish("a.b.svc.cluster.local", me), "Services or pods"},
		"join as the apiserver's address": {joinWish("10.0.0.1", me), "address of the API server"},
		"join with a DNS name":            {join.with(func(w *wish) { w.names = []string{"x"} }), "no alternative names"},
		"join with an address":            {join.with(func(w *wish) { w.addrs = []string{"10.0.0.1"} }), "no alternative names"},
		"join to serve":                   {join.with(usages(certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth)), "usages"},
		"join to sign":                    {join.with(usages(certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth, certificatesv1.UsageCertSign)), "usages"},
		"join for nothing":                {join.with(usages()), "usages"},
		"join with the purpose twice":     {join.with(usages(certificatesv1.UsageClientAuth, certificatesv1.UsageClientAuth)), "usages"},
		"join without proof":              {join.with(func(w *wish) { w.identity = nil }), "identity key"},
		"join with another's key":         {join.with(func(w *wish) { w.alterAnnotate = mixed(t, me, other) }), "identity key"},
		"join with a huge proof": {join.with(func(w *wish) {
			w.alterAnnotate = map[string]string{nodeid.KeyAnnotation: strings.Repeat("A", 1<<20), nodeid.ProofAnnotation: "AAAA"}
		}), "identity key"},
		"join with a weak key":         {join.with(func(w *wish) { w.key = weak }), "P-224"},
		"join for ten years":           {join.with(func(w *wish) { w.expiration = seconds(10 * 365 * 24 * 3600) }), "seconds"},
		"join for a second":            {join.with(func(w *wish) { w.expiration = seconds(1) }), "seconds"},
		"join, signed by another":      {join.with(func(w *wish) { w.alter = func(der []byte) { der[len(der)-1] ^= 1 } }), "not signed by its own key"},
		"join, cut":                    {join.with(func(w *wish) { w.alter = func(der []byte) { der[1] = 0 } }), "cannot be read"},
		"serve with a join token":      {serve.with(func(w *wish) { w.user, w.groups = bootstrapper() }), "join token"},
		"be an agent by a join token":  {proxy.with(func(w *wish) { w.user, w.groups = bootstrapper() }), "join token"},
		"renew another node":           {renewalWish("shop-1").with(user("system:node:shop-2", "system:nodes")), "itself only"},
		"renew, with another's proof":  {renewalWish("shop-1").with(func(w *wish) { w.alterAnnotate = mixed(t, me, other) }), "identity key"},
		"serve as another node":        {serve.with(user("system:node:shop-2", "system:nodes")), "itself only"},
		"serve and be a client":        {serve.with(usages(certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth)), "usages"},
		"serve under no name":          {servingWish("shop-1", nil, nil), "1 to 64"},
		"serve under many names":       {servingWish("shop-1", strings.Split(strings.Repeat("a,", 64)+"b", ","), nil), "1 to 64"},
		"serve under a wildcard":       {servingWish("shop-1", []string{"*.example.com"}, nil), "not a DNS name"},
		"serve under a mail address":   {serve.with(func(w *wish) { w.mails = []string{"a@example.com"} }), "mail"},
		"be another node's agent":      {proxy.with(user("limpet:kube-proxy:shop-2", "limpet:kube-proxy")), "own node agents only"},
		"be an agent of all nodes":     {proxy.with(user("limpet:kube-proxy", "limpet:kube-proxy")), "own node agents only"},
		"be an agent in another group": {proxy.with(user("limpet:kube-proxy:shop-1", "limpet:dns")), "own node agents only"},
		"be the approver":              {proxy.with(user("limpet:approver", "limpet:approver")), "own node agents only"},
		"be an administrator":          {proxy.with(user("limpet:kube-proxy:shop-1", "system:masters")), "own node agents only"},
		"be an agent and serve":        {proxy.with(usages(certificatesv1.UsageServerAuth)), "client auth only"},
		"be an agent for nothing":      {proxy.with(usages(certificatesv1.UsageDigitalSignature)), "missing"},
		"be an agent with an address":  {proxy.with(func(w *wish) { w.addrs = []string{"10.0.0.7"} }), "no alternative names"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, d := Inspect(c.wish.csr(t), testPolicy())
			if d == nil || d.Verdict != Deny {
				t.Fatalf("decided %+v, want a denial", d)
			}
			if !strings.Contains(d.Message, c.says) || strings.ContainsAny(d.Message, "\n\r") {
				t.Errorf("message %q, want one line that says %q", d.Message, c.says)
			}
			if d.Reason != noderecord.ReasonRefused {
				t.Errorf("reason %q", d.Reason)
			}
		})
	}
}

// mixed are the key of one machine and the proof of another.
func mixed(t *testing.T, a, b *nodeid.Key) map[string]string {
	t.Helper()
	key, _, err := a.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	_, proof, err := b.Sign([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{nodeid.KeyAnnotation: key, nodeid.ProofAnnotation: proof}
}

func TestInspectRefusesWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"nothing":      "",
		"no PEM":       "hello",
		"another type": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"too long":     strings.Repeat("A", maxRequest+1),
		"two blocks":   string(joinWish("a", newIdentity(t)).csr(t).Spec.Request) + string(joinWish("b", newIdentity(t)).csr(t).Spec.Request),
	} {
		csr := joinWish("shop-1", newIdentity(t)).csr(t)
		csr.Spec.Request = []byte(content)
		if _, d := Inspect(csr, testPolicy()); d == nil || d.Verdict != Deny {
			t.Errorf("%s: decided %+v, want a denial", name, d)
		}
	}
}

func TestInspectIgnores(t *testing.T) {
	t.Parallel()
	join := joinWish("shop-1", newIdentity(t))
	condition := func(kind certificatesv1.RequestConditionType) func(*certificatesv1.CertificateSigningRequest) {
		return func(csr *certificatesv1.CertificateSigningRequest) {
			csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: kind, Status: corev1.ConditionTrue}}
		}
	}
	for name, c := range map[string]struct {
		wish   wish
		change func(*certificatesv1.CertificateSigningRequest)
	}{
		"another signer":             {join.with(func(w *wish) { w.signer = "example.com/mine" }), nil},
		"the legacy signer":          {join.with(func(w *wish) { w.signer = "kubernetes.io/legacy-unknown" }), nil},
		"an administrator":           {join.with(func(w *wish) { w.user, w.groups = "system:admin", []string{"system:masters"} }), nil},
		"another bootstrapper":       {join.with(func(w *wish) { w.groups = []string{"system:bootstrappers"} }), nil},
		"the user without the group": {renewalWish("shop-1").with(func(w *wish) { w.groups = nil }), nil},
		"the group without a node":   {renewalWish("shop-1").with(func(w *wish) { w.user = "system:node:" }), nil},
		"approved":                   {join, condition(certificatesv1.CertificateApproved)},
		"denied":                     {join, condition(certificatesv1.CertificateDenied)},
		"failed":                     {join, condition(certificatesv1.CertificateFailed)},
		"issued":                     {join, func(csr *certificatesv1.CertificateSigningRequest) { csr.Status.Certificate = []byte("x") }},
	} {
		csr := c.wish.csr(t)
		if c.change != nil {
			c.change(csr)
		}
		if _, d := Inspect(csr, testPolicy()); d == nil || d.Verdict != Ignore {
			t.Errorf("%s: decided %+v, want to ignore it", name, d)
		}
	}
}

func TestInspectAccepts(t *testing.T) {
	t.Parallel()
	me := newIdentity(t)
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	hour := int32(3600)
	for name, c := range map[string]struct {
		wish wish
		want Request
	}{
		"join":            {joinWish("shop-1", me), Request{Kind: Join, Node: "shop-1", Fingerprint: fingerprint(t, me)}},
		"join for a hour": {joinWish("shop-1", me).with(func(w *wish) { w.expiration = &hour }), Request{Kind: Join, Node: "shop-1", Fingerprint: fingerprint(t, me)}},
		"join with a server's token": {joinWish("shop-1", me).with(func(w *wish) {
			w.groups = []string{"system:bootstrappers:limpet:servers"}
		}), Request{Kind: Join, Node: "shop-1", Fingerprint: fingerprint(t, me)}},
		"join with RSA": {joinWish("shop-1", me).with(func(w *wish) {
			w.key, w.usages = large, append(w.usages, certificatesv1.UsageKeyEncipherment)
		}), Request{Kind: Join, Node: "shop-1", Fingerprint: fingerprint(t, me)}},
		"renewal":            {renewalWish("shop-1"), Request{Kind: Renewal, Node: "shop-1"}},
		"renewal with proof": {renewalWish("shop-1").with(func(w *wish) { w.identity = me }), Request{Kind: Renewal, Node: "shop-1", Fingerprint: fingerprint(t, me)}},
		"kube-proxy":         {agentWish("shop-1", "limpet:kube-proxy"), Request{Kind: Agent, Node: "shop-1"}},
		"network":            {agentWish("shop-1", "limpet:network"), Request{Kind: Agent, Node: "shop-1"}},
		"dns":                {agentWish("shop-1", "limpet:dns"), Request{Kind: Agent, Node: "shop-1"}},
		"serving":            {servingWish("shop-1", []string{"shop-1"}, []string{"10.0.0.7"}), Request{Kind: Serving, Node: "shop-1"}},
	} {
		got, d := Inspect(c.wish.csr(t), testPolicy())
		if d != nil {
			t.Errorf("%s: decided %+v", name, *d)
		}
		if got.Kind != c.want.Kind || got.Node != c.want.Node || got.Fingerprint != c.want.Fingerprint {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
