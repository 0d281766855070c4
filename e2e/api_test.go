package e2e

import (
	"context"
	"debug/elf"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	kubernetesVersion = "v1.37.2+limpet"
	adminKubeconfig   = "/etc/limpet/limpet.yaml"
	auditLog          = "/var/log/limpet-audit.log" // the shared cluster's --audit-log-path
)

// TestVersions asks everyone who has a version.
func TestVersions(t *testing.T) {
	s := sharedSpace(t, time.Minute)
	v, err := s.client.Discovery().ServerVersion()
	s.ok(err)
	node := must[*corev1.Node](s)(s.client.CoreV1().Nodes().Get(s.ctx, node1, metav1.GetOptions{}))
	for who, got := range map[string]string{
		"the API server":   v.GitVersion,
		"the kubelet":      node.Status.NodeInfo.KubeletVersion,
		"limpet status":    s.status(s.ctx, t).Kubernetes,
		"limpet version":   s.mustIn(s.ctx, t, node1, "limpet", "version"),
		"kubectl's client": s.kubectl("version", "--client"),
	} {
		if !strings.Contains(got, kubernetesVersion) {
			t.Errorf("%s says %q, want %s", who, got, kubernetesVersion)
		}
	}
	if v.Major != "1" || v.Minor != "37" || v.GitTreeState != "clean" || v.GitCommit == "" {
		t.Errorf("the API server's version is %+v", v)
	}
	f, err := elf.Open(env.bin)
	s.ok(err)
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary is not statically linked")
		}
	}
}

// TestAnonymousAccess sees health and version and nothing else.
func TestAnonymousAccess(t *testing.T) {
	s := sharedSpace(t, time.Minute)
	client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(s.config))
	s.ok(err)
	for path, want := range map[string][]int{
		"/readyz": {200}, "/livez": {200}, "/healthz": {200}, "/version": {200},
		"/api": {401, 403}, "/apis": {401, 403}, "/api/v1/namespaces": {401, 403}, "/metrics": {401, 403},
		"/openapi/v3": {401, 403}, "/api/v1/namespaces/kube-system/secrets": {401, 403}, "/debug/pprof/": {401, 403, 404},
	} {
		resp, err := client.Get(s.config.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		found := false
		for _, code := range want {
			found = found || resp.StatusCode == code
		}
		if !found {
			t.Errorf("%s: %d, want one of %v: %.200s", path, resp.StatusCode, want, body)
		}
	}
	wrong, err := kubernetes.NewForConfig(s.as("not-a-token"))
	s.ok(err)
	if _, err := wrong.CoreV1().Namespaces().List(s.ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a wrong token: %v, want unauthorized", err)
	}
}

// TestKubeletIdentity uses the kubelet's own certificate for what a node taken
// over would try.
func TestKubeletIdentity(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	for ns, name := range map[string]string{s.name: "foreign", "kube-system": s.name} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"k": "v"}}
		must[*corev1.Secret](s)(s.client.CoreV1().Secrets(ns).Create(s.ctx, secret, metav1.CreateOptions{}))
		t.Cleanup(func() {
			_ = s.client.CoreV1().Secrets(ns).Delete(context.Background(), name, metav1.DeleteOptions{})
		})
	}
	kubelet := func(args ...string) result {
		return s.in(s.ctx, node1, append([]string{"limpet", "kubectl", "--kubeconfig", dataDir + "/server/cred/kubelet.kubeconfig"}, args...)...)
	}
	for _, args := range [][]string{{"get", "node", node1}, {"auth", "whoami"}} {
		if r := kubelet(args...); r.code != 0 || !strings.Contains(r.stdout, node1) {
			t.Fatalf("kubectl %v as the kubelet: %s", args, r.text())
		}
	}
	for _, args := range [][]string{
		{"get", "secret", "-n", s.name, "foreign"},
		{"get", "secrets", "-A"},
		{"get", "secret", "-n", "kube-system", s.name},
		{"label", "node", node1, "node-role.kubernetes.io/stolen=true"},
		{"label", "node", node1, "node-restriction.kubernetes.io/zone=secret"},
		{"taint", "node", node1, "stolen=true:NoSchedule"},
		{"delete", "node", node1},
		{"create", "clusterrolebinding", "mine-" + s.name, "--clusterrole=cluster-admin", "--user=system:node:" + node1},
		{"create", "token", "-n", "kube-system", "default"},
	} {
		if r := kubelet(args...); r.code == 0 || !strings.Contains(strings.ToLower(r.stderr), "forbidden") {
			t.Errorf("kubectl %s as the kubelet: exit status %d, want forbidden: %s", strings.Join(args, " "), r.code, r.text())
		}
	}
	// A secret of a pod on its own node is what it may and must read.
	mine := must[*corev1.Secret](s)(s.client.CoreV1().Secrets(s.name).Create(s.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{}))
	box := pod("box", shellSpec(""))
	box.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: mine.Name}}}}
	s.start(box)
	if r := kubelet("get", "secret", "-n", s.name, "mine"); r.code != 0 {
		t.Errorf("the secret of a pod on the node: %s", r.text())
	}
}

// TestCommandsOnTheNode runs the binary's commands without any settings.
func TestCommandsOnTheNode(t *testing.T) {
	s := sharedSpace(t, time.Minute)
	st, err := os.Stat(s.path(t, node1, adminKubeconfig))
	s.ok(err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %o, want 600", adminKubeconfig, st.Mode().Perm())
	}
	for _, cmd := range []string{"limpet kubectl get nodes", "kubectl get nodes"} {
		if out := s.mustIn(s.ctx, t, node1, strings.Fields(cmd)...); !strings.Contains(out, node1) || !strings.Contains(out, " Ready") {
			t.Errorf("%s: %q", cmd, out)
		}
	}
	for _, cmd := range []string{"limpet ctr images ls", "ctr images ls"} {
		out := s.mustIn(s.ctx, t, node1, strings.Fields(cmd)...)
		for _, image := range []string{imageBusybox, imageHTTPD, "limpet.io/pause:1"} {
			if !strings.Contains(out, image) {
				t.Errorf("%s shows no %s: %s", cmd, image, out)
			}
		}
	}
	components := s.status(s.ctx, t).Components
	for _, want := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet", "kube-proxy", "dns"} {
		found := false
		for _, c := range components {
			found = found || c.Name == want
		}
		if !found {
			t.Errorf("limpet status shows no component %s: %s", want, jsonText(components))
		}
	}
	for _, c := range components {
		if c.Phase != "ready" && c.Phase != "done" {
			t.Errorf("component %s is %s: %s", c.Name, c.Phase, c.Reason)
		}
		if c.Restarts != 0 {
			t.Errorf("component %s was restarted %d times", c.Name, c.Restarts)
		}
	}
	if r := s.in(s.ctx, node1, "limpet", "check-config"); r.code != 0 {
		t.Errorf("limpet check-config on a node that works: exit status %d: %s", r.code, r.text())
	}
	// What is secret is root's alone.
	out := s.mustIn(s.ctx, t, node1, "sh", "-c", `{ find /etc/limpet `+dataDir+`/server -type f; find /run/limpet -type s; } |
		setpriv --reuid=65534 --regid=65534 --clear-groups xargs -r -n1 sh -c 'test ! -r "$1" || echo "$1"' sh`)
	if out != "" {
		t.Errorf("files and sockets that others can read:\n%s", out)
	}
}

// TestBootstrapToken makes a join token by hand and uses it.
func TestBootstrapToken(t *testing.T) {
	s := sharedSpace(t, time.Minute)
	const id, key = "e2etok", "0123456789abcdef"
	secrets := s.client.CoreV1().Secrets(metav1.NamespaceSystem)
	must[*corev1.Secret](s)(secrets.Create(s.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": id, "token-secret": key, "usage-bootstrap-authentication": "true",
			"auth-extra-groups": "system:bootstrappers:e2e", "expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
	}, metav1.CreateOptions{}))
	client, err := kubernetes.NewForConfig(s.as(id + "." + key))
	s.ok(err)
	whoami := func() (*authenticationv1.SelfSubjectReview, error) {
		return client.AuthenticationV1().SelfSubjectReviews().Create(s.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	var who *authenticationv1.SelfSubjectReview
	eventually(s.ctx, t, "the token is known", func() (err error) {
		who, err = whoami()
		return err
	})
	user := who.Status.UserInfo
	if user.Username != "system:bootstrap:"+id || !strings.Contains(strings.Join(user.Groups, " "), "system:bootstrappers:e2e") {
		t.Errorf("the token is %s's, of the groups %v", user.Username, user.Groups)
	}
	if _, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(s.ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secrets with a bootstrap token: %v, want forbidden", err)
	}
	s.ok(secrets.Delete(s.ctx, "bootstrap-token-"+id, metav1.DeleteOptions{}))
	eventually(s.ctx, t, "the token is void after its removal", func() error {
		if _, err := whoami(); !apierrors.IsUnauthorized(err) {
			return errors.Join(errors.New("want unauthorized"), err)
		}
		return nil
	})
}

// TestAuditLog finds who wrote a Secret, and not what is in it.
func TestAuditLog(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	const value = "audit-must-not-see-this-value"
	secrets := s.client.CoreV1().Secrets(s.name)
	must[*corev1.Secret](s)(secrets.Create(s.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "audited"}, StringData: map[string]string{"k": value}}, metav1.CreateOptions{}))
	s.kubectl("annotate", "secret", "audited", "note=changed")
	s.ok(secrets.Delete(s.ctx, "audited", metav1.DeleteOptions{}))
	var text string
	eventually(s.ctx, t, "the audit log tells of the Secret", func() error { // it is written in batches
		data, err := os.ReadFile(s.path(t, node1, auditLog))
		if err != nil {
			return err
		}
		text = string(data)
		for _, verb := range []string{"create", "patch", "delete"} {
			if !auditLine(text, verb, s.name) {
				return fmt.Errorf("no %s of the Secret in %d bytes", verb, len(text))
			}
		}
		return nil
	})
	log, err := os.ReadFile(filepath.Join(s.dir, node1, "limpet.log"))
	s.ok(err)
	for _, secret := range []string{value, base64.StdEncoding.EncodeToString([]byte(value)), "PRIVATE KEY"} {
		if strings.Contains(text, secret) {
			t.Errorf("the audit log holds %s", secret)
		}
		if strings.Contains(string(log), secret) {
			t.Errorf("limpet's log holds %s", secret)
		}
	}
	st, err := os.Stat(s.path(t, node1, auditLog))
	s.ok(err)
	if st.Mode().Perm()&0o077 != 0 {
		t.Errorf("the audit log has mode %o, others can read it", st.Mode().Perm())
	}
}

func auditLine(text, verb, ns string) bool {
	for line := range strings.Lines(text) {
		if strings.Contains(line, `"verb":"`+verb+`"`) && strings.Contains(line, `"resource":"secrets","namespace":"`+ns+`"`) &&
			strings.Contains(line, `"level":"Metadata"`) && strings.Contains(line, `"username":"system:admin"`) {
			return true
		}
	}
	return false
}

// TestServingCertificates names the ways in which the API server is called.
func TestServingCertificates(t *testing.T) {
	s := sharedSpace(t, time.Minute)
	here := s.node(t, node1)
	for _, address := range []string{"127.0.0.1:6443", s.nodeIP(t, node1) + ":6443", "10.43.0.1:443"} {
		cfg := rest.CopyConfig(s.config)
		cfg.Host, cfg.Dial, cfg.ServerName = "https://"+address, here.dial, ""
		client, err := rest.HTTPClientFor(cfg)
		s.ok(err)
		resp, err := client.Get(cfg.Host + "/readyz")
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.TLS.Version < 0x0303 {
			t.Errorf("%s: %s, TLS %x", address, resp.Status, resp.TLS.Version)
		}
	}
}
