package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/limpetio/limpet/internal/pki"
)

// natNode is an agent that nobody can connect to.
const natNode = "n2"

// natRules let nothing in from the LAN but answers to what the node itself has asked.
const natRules = `table inet test-nat {
  chain input {
    type filter hook input priority -150; policy accept;
    iifname != { "lo", "cni0" } ct direction original drop
  }
  chain forward {
    type filter hook forward priority -150; policy accept;
    iifname != "cni0" ct direction original drop
  }
}
`

// TestAgentBehindNAT uses everything for which the API server connects to a
// node, on a node that accepts no connection.
func TestAgentBehindNAT(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 2, "--nodes", "2")
	s := newSpace(t, c, 7*time.Minute)
	putBehindNAT(s)
	box := s.start(onNode(pod("box", shellSpec("echo a line in the log; trap exit TERM; while :; do sleep 3600 & wait; done"))))
	web := s.start(onNode(pod("web", httpdSpec())))

	for name, test := range map[string]func(*space){
		"logs and exec":              func(s *space) { natLogsAndExec(s, box) },
		"attach":                     natAttach,
		"kubelet API":                natKubeletAPI,
		"pod and Service proxy":      func(s *space) { natProxy(s, web) },
		"webhook":                    func(s *space) { natWebhook(s, box) },
		"transfers and port-forward": func(s *space) { natTransfers(s, box) },
		"slow readers":               func(s *space) { natSlowReaders(s, box) },
	} {
		t.Run(name, func(t *testing.T) { test(s.with(t)) })
	}
	// These disturb the others.
	t.Run("restart of the server", func(t *testing.T) { natServerRestart(s.with(t), box) })
	t.Run("deletion of the Node", func(t *testing.T) { natNodeDeleted(s.with(t)) })
}

func onNode(p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeName = natNode
	p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	return p
}

// putBehindNAT closes the node and lets its limpet connect anew. It fails the
// test unless the node can be reached before and not after.
func putBehindNAT(s *space) {
	s.t.Helper()
	kubelet := net.JoinHostPort(s.nodeIP(s.t, natNode), "10250")
	reach := func() error {
		ctx, cancel := context.WithTimeout(s.ctx, 2*time.Second)
		defer cancel()
		conn, err := s.node(s.t, node1).dial(ctx, "tcp", kubelet)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	s.ok(reach())
	s.must(s.ctx, s.t, "stop", natNode)
	s.drop(s.t, natNode, "/run/nat.nft", []byte(natRules))
	s.mustIn(s.ctx, s.t, natNode, dataDir+"/data/current/bin/nft", "-f", "/run/nat.nft")
	s.must(s.ctx, s.t, "start", natNode)
	if reach() == nil {
		s.t.Fatal("the node can be reached: the rules are wrong, and this test says nothing")
	}
	awaitTunnel(s)
}

// awaitTunnel returns how long it took until a command in a pod of the node ran.
func awaitTunnel(s *space) {
	s.t.Helper()
	start := time.Now()
	eventually(s.ctx, s.t, "the kubelet behind NAT", func() error {
		ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
		defer cancel()
		return s.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", natNode, "proxy/healthz").Do(ctx).Error()
	})
	s.t.Logf("the kubelet behind NAT answered after %s", time.Since(start).Round(time.Millisecond))
}

func natLogsAndExec(s *space, box *corev1.Pod) {
	if got := s.log(box.Name, &corev1.PodLogOptions{}); got != "a line in the log\n" {
		s.t.Errorf("log: %q", got)
	}
	if got := s.sh(box.Name, "hostname; exit 0"); got != box.Name {
		s.t.Errorf("exec: %q", got)
	}
	var took []string
	for range 5 {
		start := time.Now()
		s.sh(box.Name, "true")
		took = append(took, time.Since(start).Round(time.Millisecond).String())
	}
	s.t.Logf("exec through the tunnel took %s", strings.Join(took, ", "))
}

func natAttach(s *space) {
	p := onNode(pod("attached", shellSpec("read line; echo got $line")))
	p.Spec.Containers[0].Stdin, p.Spec.Containers[0].StdinOnce = true, true
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.start(p)
	cmd := s.kubectlCommand(s.ctx, "attach", "-i", p.Name)
	cmd.Stdin = strings.NewReader("typed text\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "got typed text") {
		s.t.Errorf("attach: %v: %s", err, out)
	}
}

func natKubeletAPI(s *space) {
	for path, want := range map[string]string{
		"stats/summary":    `"nodeName": "` + natNode + `"`,
		"metrics/resource": "node_memory_working_set_bytes",
		"metrics":          "kubelet_running_pods",
		"configz":          "kubeletconfig",
	} {
		body, err := s.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", natNode, "proxy", path).DoRaw(s.ctx)
		if err != nil || !strings.Contains(string(body), want) {
			s.t.Errorf("%s: %v, %d bytes without %q", path, err, len(body), want)
		}
	}
}

func natProxy(s *space, web *corev1.Pod) {
	get := func(path ...string) string {
		s.t.Helper()
		body, err := s.client.CoreV1().RESTClient().Get().AbsPath(path...).DoRaw(s.ctx)
		s.ok(err)
		return strings.TrimSpace(string(body))
	}
	base := "/api/v1/namespaces/" + s.name
	if got := get(base, "pods", web.Name+":"+httpPortText, "proxy/"); !strings.Contains(got, "pod="+web.Name) {
		s.t.Errorf("through the proxy of a pod: %q", got)
	}
	s.createService(service(web.Name))
	eventually(s.ctx, s.t, "the proxy of a Service", func() error {
		body, err := s.client.CoreV1().RESTClient().Get().AbsPath(base, "services", web.Name+":http", "proxy/").DoRaw(s.ctx)
		if err == nil && !strings.Contains(string(body), "pod="+web.Name) {
			err = fmt.Errorf("answered %q", body)
		}
		return err
	})
}

// natWebhook has a pod behind NAT decide about objects. The server of the
// webhook is this test, listening in the pod's network.
func natWebhook(s *space, box *corev1.Pod) {
	name := "gate." + s.name + ".svc"
	bundle := serveWebhook(s, box, name)
	svc := service(box.Name)
	svc.Name = "gate"
	svc.Spec.Ports = []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(8443)}}
	s.createService(svc)
	hook := &admissionregv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: s.name},
		Webhooks: []admissionregv1.ValidatingWebhook{{
			Name: "gate.example.com", AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr(admissionregv1.SideEffectClassNone),
			FailurePolicy: ptr(admissionregv1.Fail), TimeoutSeconds: ptr(int32(10)),
			ClientConfig: admissionregv1.WebhookClientConfig{
				CABundle: bundle, Service: &admissionregv1.ServiceReference{Namespace: s.name, Name: svc.Name},
			},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": s.name}},
			Rules: []admissionregv1.RuleWithOperations{{
				Operations: []admissionregv1.OperationType{admissionregv1.Create},
				Rule:       admissionregv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
		}},
	}
	hooks := s.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	hook = must[*admissionregv1.ValidatingWebhookConfiguration](s)(hooks.Create(s.ctx, hook, metav1.CreateOptions{}))
	defer func() { s.ok(hooks.Delete(s.ctx, hook.Name, metav1.DeleteOptions{})) }()
	create := func(name string) error {
		_, err := s.client.CoreV1().ConfigMaps(s.name).Create(s.ctx,
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}}, metav1.CreateOptions{})
		return err
	}
	// The configuration is in force a moment after it was made.
	eventually(s.ctx, s.t, "the webhook's refusal", func() error {
		err := create("bad")
		if err == nil {
			return errors.New("admitted")
		}
		if !strings.Contains(err.Error(), "this is a bad one") {
			return err
		}
		return nil
	})
	start := time.Now()
	s.ok(create("good"))
	s.t.Logf("a request with the webhook behind NAT took %s", time.Since(start).Round(time.Millisecond))
}

// serveWebhook refuses what is called bad…; it returns the authority to verify it with.
func serveWebhook(s *space, box *corev1.Pod, name string) []byte {
	s.t.Helper()
	authority, err := pki.Open(s.t.TempDir(), pki.Options{})
	s.ok(err)
	issued, err := authority.Server.Ensure("webhook", pki.Leaf{
		CommonName: name, DNSNames: []string{name}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	s.ok(err)
	cert, err := tls.LoadX509KeyPair(issued.Cert, issued.Key)
	s.ok(err)
	var l net.Listener
	s.ok(podPlace(s.t, box).within(func() (err error) {
		l, err = tls.Listen("tcp", ":8443", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		return err
	}))
	server := &http.Server{Handler: http.HandlerFunc(reviewName), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }()
	s.t.Cleanup(func() { _ = server.Close() })
	return readFile(s, authority.Server.File())
}

func reviewName(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	var object metav1.PartialObjectMetadata
	if err := json.Unmarshal(review.Request.Object.Raw, &object); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	bad := strings.HasPrefix(object.GenerateName, "bad")
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: !bad}
	if bad {
		review.Response.Result = &metav1.Status{Message: "this is a bad one"}
	}
	review.Request = nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

func natServerRestart(s *space, box *corev1.Pod) {
	s.must(s.ctx, s.t, "stop", node1)
	s.must(s.ctx, s.t, "start", node1)
	s.must(s.ctx, s.t, "wait", node1, "60")
	awaitTunnel(s)
	if got := s.sh(box.Name, "hostname"); got != box.Name {
		s.t.Errorf("exec after the restart: %q", got)
	}
}

// natNodeDeleted removes the Node: its tunnel ends, and its certificate does not
// open another until the Node is there again.
func natNodeDeleted(s *space) {
	s.ok(s.client.CoreV1().Nodes().Delete(s.ctx, natNode, metav1.DeleteOptions{}))
	eventually(s.ctx, s.t, "the end of the tunnel", func() error {
		if r := s.in(s.ctx, node1, "limpet", "status"); strings.Contains(r.stdout, "Tunnels:") {
			return errors.New("it is there")
		}
		return nil
	})
	s.run(s.ctx, "stop", natNode) // upstream's kube-proxy may have ended it already
	// An agent that takes longer than a moment to reach its server begins with
	// its record, in which the Node is; kube-proxy then ends it once more. An
	// init system starts it again, and so does this.
	eventually(s.ctx, s.t, "the tunnel of a node that registers anew", func() error {
		s.run(s.ctx, "start", natNode) // refused while it runs
		if r := s.in(s.ctx, node1, "limpet", "status"); !strings.Contains(r.stdout, "Tunnels:") {
			return errors.New("there is none")
		}
		return nil
	})
	awaitTunnel(s)
	_, err := s.client.CoreV1().Nodes().Get(s.ctx, natNode, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		s.t.Error("a Node that does not exist has a tunnel")
	}
}
