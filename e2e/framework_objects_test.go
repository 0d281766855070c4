package e2e

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The test images; see scripts/images. Nodes have them, and there is no registry.
const (
	imageBusybox = "limpet.io/test/busybox:1"
	imageHTTPD   = "limpet.io/test/httpd:1"
	imageHTTPD2  = "limpet.io/test/httpd:2"
	httpPort     = 8080
	httpPortText = "8080"
)

func ptr[T any](v T) *T { return &v }

func app(name string) map[string]string { return map[string]string{"app": name} }

// httpdSpec is the test server, ready when its /readyz says so.
func httpdSpec() corev1.PodSpec {
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr(int64(10)),
		AutomountServiceAccountToken:  ptr(false),
		Containers: []corev1.Container{{
			Name: "main", Image: imageHTTPD, ImagePullPolicy: corev1.PullNever,
			Env: []corev1.EnvVar{{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
			Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: httpPort},
				{Name: "echo", ContainerPort: httpPort, Protocol: corev1.ProtocolUDP},
			},
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromString("http")}},
				PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5,
			},
		}},
	}
}

// shellSpec runs a shell script; "" waits to be exec'ed into.
func shellSpec(script string) corev1.PodSpec {
	if script == "" {
		script = "trap exit TERM; while :; do sleep 3600 & wait; done"
	}
	return corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr(int64(1)),
		AutomountServiceAccountToken:  ptr(false),
		Containers: []corev1.Container{{
			Name: "main", Image: imageBusybox, ImagePullPolicy: corev1.PullNever,
			Command: []string{"sh", "-c", script},
		}},
	}
}

func pod(name string, spec corev1.PodSpec) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: app(name)}, Spec: spec}
}

// once is a shell script that is run to its end and not again.
func once(name, script string) *corev1.Pod {
	p := pod(name, shellSpec(script))
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	return p
}

func deployment(name string, replicas int32, spec corev1.PodSpec) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr(replicas),
			Selector: &metav1.LabelSelector{MatchLabels: app(name)},
			Template: template(name, spec),
		},
	}
}

func template(name string, spec corev1.PodSpec) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app(name)}, Spec: spec}
}

// service leads port 80, TCP and UDP, to the pods with the label app=name.
func service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: app(name),
			Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, TargetPort: intstr.FromString("http")},
				{Name: "echo", Port: 80, TargetPort: intstr.FromString("echo"), Protocol: corev1.ProtocolUDP},
			},
		},
	}
}

// limits sets a container's resource limits.
func limits(c *corev1.Container, pairs map[corev1.ResourceName]string) {
	list := corev1.ResourceList{}
	for name, v := range pairs {
		list[name] = resource.MustParse(v)
	}
	c.Resources = corev1.ResourceRequirements{Limits: list, Requests: maps.Clone(list)}
}

// execProbe runs a shell condition every second and believes the first failure.
func execProbe(condition string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", condition}}},
		PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5,
	}
}

// createService makes a Service and returns it with its address.
func (s *space) createService(svc *corev1.Service) *corev1.Service {
	s.t.Helper()
	return must[*corev1.Service](s)(s.client.CoreV1().Services(s.name).Create(s.ctx, svc, metav1.CreateOptions{}))
}

// deploy makes a Deployment and waits until all of its pods are Ready.
func (s *space) deploy(d *appsv1.Deployment) []*corev1.Pod {
	s.t.Helper()
	must[*appsv1.Deployment](s)(s.client.AppsV1().Deployments(s.name).Create(s.ctx, d, metav1.CreateOptions{}))
	return s.selected(int(*d.Spec.Replicas), d.Spec.Selector.MatchLabels)
}

// rolledOut says what a Deployment lacks to have finished its last change.
func rolledOut(d *appsv1.Deployment) string {
	s := d.Status
	if s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == *d.Spec.Replicas &&
		s.Replicas == *d.Spec.Replicas && s.AvailableReplicas == *d.Spec.Replicas {
		return ""
	}
	return jsonText(s)
}
