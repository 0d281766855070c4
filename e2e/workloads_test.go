package e2e

import (
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestDeploymentVolumes gives a Deployment everything that a pod can be given
// and reads all of it from inside.
func TestDeploymentVolumes(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	must[*corev1.ConfigMap](s)(s.client.CoreV1().ConfigMaps(s.name).Create(s.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "settings"},
		Data:       map[string]string{"greeting": "good morning", "app.conf": "a = 1\nb = 2\n"},
		BinaryData: map[string][]byte{"bytes": {0, 1, 254, 255}},
	}, metav1.CreateOptions{}))
	must[*corev1.Secret](s)(s.client.CoreV1().Secrets(s.name).Create(s.ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "keys"},
		StringData: map[string]string{"password": "p4ss wörd"},
	}, metav1.CreateOptions{}))
	d := deployment("box", 1, equippedSpec())
	d.Spec.Template.Annotations = map[string]string{"note": "from the annotation"}
	box := s.deploy(d)[0]

	for _, want := range []struct{ script, out string }{
		{"cat /settings/app.conf", "a = 1\nb = 2"},
		{"od -An -tx1 /settings/bytes | tr -d ' '", "0001feff"},
		{"cat /keys/password", "p4ss wörd"},
		{"stat -Lc %a /keys/password", "400"},
		{"df /keys | tail -1 | cut -d' ' -f1", "tmpfs"},
		{"cat /info/note", "from the annotation"},
		{"cat /all/config/greeting /all/secret/password", "good morningp4ss wörd"},
		{"echo $GREETING", "good morning"},
		{"echo $PREFIX_password", "p4ss wörd"},
		{"echo $NODE", node1},
		{"echo $POD_IP", box.Status.PodIP},
		{"cat /scratch/order", "first\nsecond"},
		{"touch /settings/x 2>/dev/null || echo read-only", "read-only"},
	} {
		if got := s.sh(box.Name, want.script); got != want.out {
			t.Errorf("%s: %q, want %q", want.script, got, want.out)
		}
	}
	checkPodToken(s, box)
}

// equippedSpec has every kind of volume and environment, and init containers
// that write their turn to a file.
func equippedSpec() corev1.PodSpec {
	spec := shellSpec("")
	c := &spec.Containers[0]
	config := corev1.LocalObjectReference{Name: "settings"}
	secret := corev1.LocalObjectReference{Name: "keys"}
	scratch := corev1.VolumeMount{Name: "scratch", MountPath: "/scratch"}
	c.Env = []corev1.EnvVar{
		{Name: "GREETING", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: config, Key: "greeting"}}},
		{Name: "NODE", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
		{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
	}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "PREFIX_", SecretRef: &corev1.SecretEnvSource{LocalObjectReference: secret}}}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: "settings", MountPath: "/settings"}, {Name: "keys", MountPath: "/keys"}, {Name: "info", MountPath: "/info"},
		{Name: "all", MountPath: "/all"}, scratch,
	}
	spec.Volumes = []corev1.Volume{
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: config}}},
		{Name: "keys", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret.Name, DefaultMode: ptr(int32(0o400))}}},
		{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "note", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['note']"}}}}}},
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: config, Items: []corev1.KeyToPath{{Key: "greeting", Path: "config/greeting"}}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: secret, Items: []corev1.KeyToPath{{Key: "password", Path: "secret/password"}}}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(600))}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
		}}}},
	}
	for _, turn := range []string{"first", "second"} {
		init := c.DeepCopy()
		init.Name, init.VolumeMounts = turn, []corev1.VolumeMount{scratch}
		// The first is the slower one: side by side they would swap.
		init.Command = []string{"sh", "-c", "[ " + turn + " = second ] || sleep 1; echo " + turn + " >>/scratch/order"}
		spec.InitContainers = append(spec.InitContainers, *init)
	}
	return spec
}

// checkPodToken calls the API server from inside the pod, with nothing but what the pod has.
func checkPodToken(s *space, box *corev1.Pod) {
	s.t.Helper()
	here := podPlace(s.t, box)
	cfg := &rest.Config{
		Host:            "https://" + s.sh(box.Name, "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"),
		BearerToken:     s.sh(box.Name, "cat /all/token"),
		TLSClientConfig: rest.TLSClientConfig{CAData: []byte(s.sh(box.Name, "cat /all/ca.crt")), ServerName: "kubernetes.default.svc"},
		Dial:            here.dial,
	}
	client, err := kubernetes.NewForConfig(cfg)
	s.ok(err)
	who := must[*authenticationv1.SelfSubjectReview](s)(client.AuthenticationV1().SelfSubjectReviews().Create(
		s.ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))
	if want := "system:serviceaccount:" + s.name + ":default"; who.Status.UserInfo.Username != want {
		s.t.Errorf("the pod's token is %s's, want %s", who.Status.UserInfo.Username, want)
	}
	if pod := who.Status.UserInfo.Extra["authentication.kubernetes.io/pod-name"]; len(pod) != 1 || pod[0] != box.Name {
		s.t.Errorf("the pod's token is bound to pod %v, want %s", pod, box.Name)
	}
}

// TestLivenessRestarts breaks what the liveness probe looks at, and only that.
func TestLivenessRestarts(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	spec := shellSpec("touch /tmp/alive; trap exit TERM; while :; do sleep 3600 & wait; done")
	spec.Containers[0].LivenessProbe = execProbe("test -e /tmp/alive")
	spec.Containers[0].LivenessProbe.InitialDelaySeconds = 2
	p := s.start(pod("box", spec))
	first := containerID(p, "main")
	s.sh("box", "echo said before the restart >/proc/1/fd/1; rm /tmp/alive")
	p = await(s.ctx, t, s.pods(), "box", func(p *corev1.Pod) string {
		if p.Status.ContainerStatuses[0].RestartCount == 0 {
			return describe(p)
		}
		return podReady(p)
	})
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 1 {
		t.Errorf("%d restarts, want 1", n)
	}
	if containerID(p, "main") == first {
		t.Error("the container is the same after the restart")
	}
	if log := s.log("box", &corev1.PodLogOptions{Previous: true}); !strings.Contains(log, "said before the restart") {
		t.Errorf("log of the previous container: %q", log)
	}
	s.sh("box", "test -e /tmp/alive")
}

// TestReadinessSteersEndpoints takes a pod out of its Service and puts it back.
func TestReadinessSteersEndpoints(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	spec := shellSpec("touch /tmp/ready; exec httpd -f -p 8080 -h /tmp")
	spec.Containers[0].ReadinessProbe = execProbe("test -e /tmp/ready")
	spec.Containers[0].Ports = httpdSpec().Containers[0].Ports
	s.createService(service("box"))
	p := s.start(pod("box", spec))
	endpoints := func(want int) {
		t.Helper()
		awaitSet(s.ctx, t, s.client.DiscoveryV1().EndpointSlices(s.name), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=box"},
			func(list []*discoveryv1.EndpointSlice) string {
				if got := readyAddresses(list); len(got) != want {
					return jsonText(got)
				}
				return ""
			})
	}
	endpoints(1)
	s.sh("box", "rm /tmp/ready")
	endpoints(0)
	s.sh("box", "touch /tmp/ready")
	endpoints(1)
	p = must[*corev1.Pod](s)(s.pods().Get(s.ctx, p.Name, metav1.GetOptions{}))
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("readiness restarted the container %d times", n)
	}
}

// TestStartupProbeHoldsLivenessBack starts a container that is "dead" by its
// liveness probe for longer than that probe's patience.
func TestStartupProbeHoldsLivenessBack(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	spec := shellSpec("sleep 4; touch /tmp/started; trap exit TERM; while :; do sleep 3600 & wait; done")
	c := &spec.Containers[0]
	c.LivenessProbe = execProbe("test -e /tmp/started")
	c.StartupProbe = execProbe("test -e /tmp/started")
	c.StartupProbe.FailureThreshold = 60
	p := s.start(pod("box", spec))
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("%d restarts during the start", n)
	}
	started := p.Status.ContainerStatuses[0].State.Running.StartedAt.Time
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady && cond.LastTransitionTime.Sub(started) < 3*time.Second {
			t.Errorf("ready %s after the start, want 4 s", cond.LastTransitionTime.Sub(started))
		}
	}
}

// TestHTTPReadiness asks a server that takes its time.
func TestHTTPReadiness(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	spec := httpdSpec()
	spec.Containers[0].Env = append(spec.Containers[0].Env, corev1.EnvVar{Name: "READY_DELAY", Value: "3s"})
	spec.Containers[0].LivenessProbe = spec.Containers[0].ReadinessProbe.DeepCopy()
	spec.Containers[0].LivenessProbe.HTTPGet.Path = "/healthz"
	p := s.start(pod("web", spec))
	started := p.Status.ContainerStatuses[0].State.Running.StartedAt.Time
	if ready := time.Since(started); ready < 2*time.Second {
		t.Errorf("ready %s after the start, /readyz says so after 3 s", ready)
	}
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("%d restarts", n)
	}
}
