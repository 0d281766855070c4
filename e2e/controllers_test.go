package e2e

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestCronJob comes first in the file because it waits for the next full minute.
func TestCronJob(t *testing.T) {
	s := sharedSpace(t, 150*time.Second)
	jobs := s.client.BatchV1().Jobs(s.name)
	template := template("tick", shellSpec("echo tick"))
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	must[*batchv1.CronJob](s)(s.client.BatchV1().CronJobs(s.name).Create(s.ctx, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick"},
		Spec: batchv1.CronJobSpec{Schedule: "* * * * *", ConcurrencyPolicy: batchv1.ForbidConcurrent,
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template}}},
	}, metav1.CreateOptions{}))
	done := awaitSet(s.ctx, t, jobs, metav1.ListOptions{}, func(list []*batchv1.Job) string {
		for _, j := range list {
			if j.Status.Succeeded == 1 {
				return ""
			}
		}
		return fmt.Sprintf("%d jobs, none succeeded", len(list))
	})
	if owner := metav1.GetControllerOf(done[0]); owner == nil || owner.Kind != "CronJob" || owner.Name != "tick" {
		t.Errorf("the job belongs to %v", owner)
	}
	if second := done[0].CreationTimestamp.Second(); second > 5 {
		t.Errorf("the job was made at second %d of the minute", second)
	}
}

// TestJob runs a Job of four completions, two at a time, one of which fails once.
func TestJob(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	template := template("work", shellSpec(`echo index $JOB_COMPLETION_INDEX; [ "$JOB_COMPLETION_INDEX" != 2 ] || [ -e /shared/again ] || { touch /shared/again; exit 1; }`))
	template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	template.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	jobs := s.client.BatchV1().Jobs(s.name)
	must[*batchv1.Job](s)(jobs.Create(s.ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "work"},
		Spec: batchv1.JobSpec{Completions: ptr(int32(4)), Parallelism: ptr(int32(2)),
			CompletionMode: ptr(batchv1.IndexedCompletion), Template: template},
	}, metav1.CreateOptions{}))
	most := int32(0)
	j := await(s.ctx, t, jobs, "work", func(j *batchv1.Job) string {
		most = max(most, j.Status.Active)
		for _, c := range j.Status.Conditions {
			if c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue {
				return ""
			}
		}
		return jsonText(j.Status)
	})
	if j.Status.Succeeded != 4 || j.Status.CompletedIndexes != "0-3" || most > 2 {
		t.Errorf("%d succeeded (%s), at most %d at once; want 4 (0-3), 2", j.Status.Succeeded, j.Status.CompletedIndexes, most)
	}
	pods := must[*corev1.PodList](s)(s.pods().List(s.ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-completion-index=2"}))
	if len(pods.Items) != 1 || pods.Items[0].Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("index 2: %d pods, want one that was restarted once", len(pods.Items))
	}
}

// TestStatefulSet checks the order, the names and their addresses.
func TestStatefulSet(t *testing.T) {
	s := sharedSpace(t, 4*time.Minute)
	headless := service("web")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	s.createService(headless)
	must[*appsv1.StatefulSet](s)(s.client.AppsV1().StatefulSets(s.name).Create(s.ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.StatefulSetSpec{Replicas: ptr(int32(3)), ServiceName: "web",
			Selector: &metav1.LabelSelector{MatchLabels: app("web")}, Template: template("web", httpdSpec())},
	}, metav1.CreateOptions{}))
	pods := s.selected(3, app("web"))
	for i, p := range pods {
		if want := fmt.Sprintf("web-%d", i); p.Name != want {
			t.Errorf("pod %d is %s, want %s", i, p.Name, want)
		}
		if i > 0 && p.CreationTimestamp.Time.Before(readySince(pods[i-1])) {
			t.Errorf("%s was created before %s was ready", p.Name, pods[i-1].Name)
		}
	}
	here := podPlace(t, pods[0])
	for _, p := range pods {
		s.resolves(here, p.Name+".web."+s.name+".svc.cluster.local.", p.Status.PodIP)
	}
	s.ok(s.pods().Delete(s.ctx, "web-1", metav1.DeleteOptions{}))
	old := pods[1].UID
	again := await(s.ctx, t, s.pods(), "web-1", func(p *corev1.Pod) string {
		if p.UID == old {
			return "it is still the old one"
		}
		return podReady(p)
	})
	s.resolves(here, "web-1.web."+s.name+".svc.cluster.local.", again.Status.PodIP)
	if got := s.selected(3, app("web")); got[0].UID != pods[0].UID || got[2].UID != pods[2].UID {
		t.Error("the other pods were replaced, too")
	}
}

func readySince(p *corev1.Pod) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// TestDaemonSet runs one pod on the node and changes it.
func TestDaemonSet(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	sets := s.client.AppsV1().DaemonSets(s.name)
	must[*appsv1.DaemonSet](s)(sets.Create(s.ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "each"},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: app("each")}, Template: template("each", httpdSpec())},
	}, metav1.CreateOptions{}))
	nodes := must[*corev1.NodeList](s)(s.client.CoreV1().Nodes().List(s.ctx, metav1.ListOptions{}))
	p := s.selected(len(nodes.Items), app("each"))[0]
	if p.Spec.NodeName == "" {
		t.Error("the pod has no node")
	}
	s.kubectl("set", "image", "daemonset/each", "main="+imageHTTPD2)
	await(s.ctx, t, sets, "each", func(d *appsv1.DaemonSet) string {
		if d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedNumberScheduled == 1 && d.Status.NumberAvailable == 1 {
			return ""
		}
		return jsonText(d.Status)
	})
	p = s.selected(1, app("each"))[0]
	if got := podPlace(t, p).mustFetch(s.ctx, t, p.Status.PodIP+":"+httpPortText, "/version"); got != "2" {
		t.Errorf("version %q after the update, want 2", got)
	}
}

// TestHorizontalPodAutoscaler is accepted and found by its controller.
func TestHorizontalPodAutoscaler(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	s.deploy(deployment("web", 1, httpdSpec()))
	scalers := s.client.AutoscalingV2().HorizontalPodAutoscalers(s.name)
	must[*autoscalingv2.HorizontalPodAutoscaler](s)(scalers.Create(s.ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MaxReplicas:    3,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr(int32(80))}}}},
		},
	}, metav1.CreateOptions{}))
	await(s.ctx, t, scalers, "web", func(h *autoscalingv2.HorizontalPodAutoscaler) string {
		for _, c := range h.Status.Conditions {
			if c.Type == autoscalingv2.AbleToScale && c.Status == corev1.ConditionTrue {
				return ""
			}
		}
		return jsonText(h.Status)
	})
}

// TestDisruptionBudget holds an eviction back until there is a pod to spare.
func TestDisruptionBudget(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	budgets := s.client.PolicyV1().PodDisruptionBudgets(s.name)
	must[*policyv1.PodDisruptionBudget](s)(budgets.Create(s.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr(intstr.FromInt32(1)),
			Selector: &metav1.LabelSelector{MatchLabels: app("web")}},
	}, metav1.CreateOptions{}))
	p := s.deploy(deployment("web", 1, httpdSpec()))[0]
	evict := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name}}
	allowed := func(n int32) {
		t.Helper()
		await(s.ctx, t, budgets, "web", func(b *policyv1.PodDisruptionBudget) string {
			if b.Status.ObservedGeneration == b.Generation && b.Status.CurrentHealthy >= 1 && b.Status.DisruptionsAllowed == n {
				return ""
			}
			return jsonText(b.Status)
		})
	}
	allowed(0)
	if err := s.pods().EvictV1(s.ctx, evict); !apierrors.IsTooManyRequests(err) {
		t.Errorf("eviction of the only pod: %v, want too many requests", err)
	}
	s.kubectl("scale", "deployment/web", "--replicas=2")
	allowed(1)
	s.ok(s.pods().EvictV1(s.ctx, evict))
	awaitGone(s.ctx, t, s.pods(), p.Name)
	s.selected(2, app("web"))
}
