package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	serverupgrades "github.com/limpetio/limpet/server/upgrades"
)

// hangs is a program that says to be a limpet of the version, and never gets ready.
// As limpet, it becomes the installed binary when it is told to.
const hangs = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "version" {
		fmt.Println(` + "`" + `{"version":"VERSION","kubernetesVersion":"v1.37.2+limpet","platform":"linux/amd64"}` + "`" + `)
		return
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR2)
	<-told
	fmt.Println(syscall.Exec(os.Args[0], os.Args, os.Environ()))
}
`

// planTest is a server with two agents, a plan, and where releases come from.
type planTest struct {
	*space
	plans    dynamic.ResourceInterface
	releases *releaseServer
	binary   string
	pods     map[string]string // container IDs by pod
	began    time.Time
}

// TestUpgradePlan upgrades the server from a carried file; the agents get the new
// version from the server, one after the other, while their pods serve. Then come
// a version that does not get ready, and one that is not signed.
func TestUpgradePlan(t *testing.T) {
	t.Parallel()
	const newer, bad, foreign = "v0.7.2-e2e.a", "v0.7.1-bad.a", "v0.7.1-bad.b"
	p := newPlanTest(t)
	p.releases.publish(t, newer, otherVersion(t, p.binary, newer))
	p.apply("{}")
	p.await("Complete", "2/2", "all run "+firstVersion)

	traffic, follow := p.startPods(), p.watchTurns(newer)
	p.upgradeServer(newer)
	p.step("the server is upgraded")
	p.await("Complete", "2/2", "all run "+newer)
	p.step("the agents are upgraded")
	turns := follow()
	if want := []string{"n2 Upgrading", "n2 Upgraded", "n3 Upgrading", "n3 Upgraded"}; !slices.Equal(turns.order, want) || turns.most != 1 {
		t.Errorf("turns %q, at most %d at a time; want %q", turns.order, turns.most, want)
	}
	p.agentsRun(newer, newer)
	traffic.mustBeUnharmed(t, "pods of agents that are upgraded")
	p.podsRanOn()

	p.releases.publish(t, bad, program(t, strings.Replace(hangs, "VERSION", bad, 1)))
	p.apply(`{"version":"` + bad + `","url":"` + p.releases.url + "/" + bad + `/","timeout":"10s"}`)
	plan := p.await("Failed", "0/2", bad+" did not get well, and "+newer+" is back")
	if got := phases(plan); got != "n1 Skipped, n2 Failed, n3 Pending" {
		t.Errorf("after a version that does not get ready: %s", got)
	}
	p.step("the plan has failed")
	p.agentsRun(newer, newer)
	p.podsRanOn()

	p.publishForeign(foreign, p.releases.dir+"/"+bad+"/limpet-amd64")
	p.drains(`{"version":"` + foreign + `","url":"` + p.releases.url + "/" + foreign + `/","drain":{"timeout":"10s","force":true}%s}`)
	p.apply(`{"version":"v9.0.0"}`)
	p.await("Refused", "0/2", "upgrade the server to v9.0.0 first")
	p.agentsRun(newer, newer)
}

// drains is for a plan to a release that agents refuse, which drains first. A budget
// keeps the pod of n2 from being evicted at first.
func (p *planTest) drains(spec string) {
	p.t.Helper()
	budgets := p.client.PolicyV1().PodDisruptionBudgets(p.name)
	must[*policyv1.PodDisruptionBudget](p.space)(budgets.Create(p.ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr(intstr.FromInt32(0)), Selector: &metav1.LabelSelector{MatchLabels: app("web")}},
	}, metav1.CreateOptions{}))
	await(p.ctx, p.t, budgets, "web", func(b *policyv1.PodDisruptionBudget) string {
		if b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != 2 {
			return jsonText(b.Status)
		}
		return ""
	})
	cordoned := func(want bool) {
		p.t.Helper()
		await(p.ctx, p.t, p.client.CoreV1().Nodes(), "n2", func(n *corev1.Node) string {
			if n.Spec.Unschedulable != want {
				return fmt.Sprintf("unschedulable is %t", n.Spec.Unschedulable)
			}
			return ""
		})
	}
	p.apply(fmt.Sprintf(spec, ""))
	cordoned(true)
	p.await("Failed", "0/2", "node n2: not drained within 10s, and so not upgraded: "+p.name+"/web-n2")
	cordoned(false)
	p.podsRanOn()

	p.ok(budgets.Delete(p.ctx, "web", metav1.DeleteOptions{}))
	p.apply(fmt.Sprintf(spec, `,"timeout":"1m"`))
	p.await("Failed", "0/2", "the signature does not match")
	awaitGone(p.ctx, p.t, p.space.pods(), "web-n2")
	cordoned(false)
}

func newPlanTest(t *testing.T) *planTest {
	t.Helper()
	key := signingKey(t, filepath.Join(filepath.Dir(t.TempDir()), "signing.key")) // where publish looks for it
	p := &planTest{began: time.Now(), binary: linkVersion(t, key)}
	c := ownClusterOf(t, p.binary, 3, "--nodes", "3")
	p.space = newSpace(t, c, 6*time.Minute)
	p.releases = newReleaseServer(t, c.node(t, lan))
	client, err := dynamic.NewForConfig(c.config)
	p.ok(err)
	p.plans = client.Resource(serverupgrades.Resource())
	for _, node := range []string{node1, "n2", "n3"} { // the test nodes have it read-only
		p.mustIn(p.ctx, t, node, "mount", "-o", "remount,bind,rw", "/usr/local/bin")
	}
	return p
}

// apply gives the plan another specification; there is one from the beginning on.
func (p *planTest) apply(spec string) {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), "plan.json")
	object := `{"apiVersion":"limpet.io/v1alpha1","kind":"UpgradePlan","metadata":{"name":"site"},"spec":` + spec + `}`
	p.ok(os.WriteFile(file, []byte(object), 0o600))
	p.kubectl("apply", "-f", file)
	p.step("plan " + spec)
}

// step prints where the time goes.
func (p *planTest) step(what string) {
	p.t.Logf("%5.1f s: %s", time.Since(p.began).Seconds(), what)
}

// await waits until the plan stands so, about its present specification.
func (p *planTest) await(phase, upgraded, message string) *unstructured.Unstructured {
	p.t.Helper()
	return await(p.ctx, p.t, p.plans, "site", func(u *unstructured.Unstructured) string {
		text := func(field string) string {
			s, _, _ := unstructured.NestedString(u.Object, "status", field)
			return s
		}
		seen, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
		if seen == u.GetGeneration() && text("phase") == phase && text("upgraded") == upgraded && strings.Contains(text("message"), message) {
			return ""
		}
		return fmt.Sprintf("it is %s %s: %s (%s), want %s %s: %s", text("phase"), text("upgraded"), text("message"), phases(u), phase, upgraded, message)
	})
}

// phases are those of the nodes in one line.
func phases(u *unstructured.Unstructured) string {
	list, _, _ := unstructured.NestedSlice(u.Object, "status", "nodes")
	var out []string
	for _, item := range list {
		if r, ok := item.(map[string]any); ok {
			out = append(out, fmt.Sprint(r["name"], " ", r["phase"]))
		}
	}
	return strings.Join(out, ", ")
}

// startPods starts one on each agent, and sends requests to them from the server's
// node.
func (p *planTest) startPods() *traffic {
	p.t.Helper()
	service := p.createService(service("web"))
	p.pods = map[string]string{}
	for _, node := range []string{"n2", "n3"} {
		web := pod("web-"+node, httpdSpec())
		web.Labels = app("web")
		web.Spec.NodeName = node
		p.pods[web.Name] = containerID(p.start(web), "main")
	}
	address := service.Spec.ClusterIP
	here := p.node(p.t, node1)
	seen := map[string]bool{} // both are known to kube-proxy
	eventually(p.ctx, p.t, "answers of both pods", func() error {
		body, err := here.fetch(p.ctx, address, "/")
		if seen[body] = err == nil; len(seen) < 2 {
			return fmt.Errorf("answers of %v, %w", slices.Collect(maps.Keys(seen)), err)
		}
		return err
	})
	return here.sendTraffic(p.ctx, "http://"+address+"/version")
}

// podsRanOn: the very same containers run, and never had to be restarted.
func (p *planTest) podsRanOn() {
	p.t.Helper()
	for name, id := range p.pods {
		pod := must[*corev1.Pod](p.space)(p.space.pods().Get(p.ctx, name, metav1.GetOptions{}))
		if containerID(pod, "main") != id || pod.Status.ContainerStatuses[0].RestartCount != 0 {
			p.t.Errorf("pod %s: container %s before, now %s", name, id, describe(pod))
		}
	}
}

// upgradeServer carries the release to the server's machine in one file.
func (p *planTest) upgradeServer(version string) {
	p.t.Helper()
	archive := "limpet-airgap-amd64.tar.zst"
	data, err := os.ReadFile(filepath.Join(p.releases.dir, version, archive))
	p.ok(err)
	p.drop(p.t, node1, "/root/"+archive, data)
	p.mustIn(p.ctx, p.t, node1, "limpet", "upgrade", "--to", "/root/"+archive)
}

// agentsRun compares what the agents report with what their machines really run.
func (p *planTest) agentsRun(versions ...string) {
	p.t.Helper()
	for i, want := range versions {
		name := fmt.Sprintf("n%d", i+2)
		node := await(p.ctx, p.t, p.client.CoreV1().Nodes(), name, func(n *corev1.Node) string {
			report, err := nodeupgrade.ParseReport(n.Annotations[nodeupgrade.ReportAnnotation])
			if report.Version != want {
				return fmt.Sprintf("reports %+v, %v", report, err)
			}
			return ""
		})
		if !strings.HasSuffix(node.Status.NodeInfo.KubeletVersion, strings.TrimPrefix(want, "v")) {
			p.t.Errorf("%s: the kubelet is %s, want one of limpet %s", name, node.Status.NodeInfo.KubeletVersion, want)
		}
		if out := p.mustIn(p.ctx, p.t, name, "limpet", "--version"); !strings.Contains(out, want) {
			p.t.Errorf("%s: installed is %s, want %s", name, out, want)
		}
	}
}

// turns are what was seen of who had his turn when.
type turns struct {
	order []string
	most  int // agents that were at it at a time, by their own reports
}

// watchTurns watches until all agents run the version; the function that it returns
// waits for that.
func (p *planTest) watchTurns(version string) func() turns {
	ctx, cancel := context.WithCancel(p.ctx)
	var (
		done sync.WaitGroup
		out  turns
	)
	done.Go(func() {
		defer cancel()
		before := map[string]string{}
		_ = watchUntil(ctx, p.plans, metav1.ListOptions{}, func(e watch.Event) bool {
			u, ok := e.Object.(*unstructured.Unstructured)
			if !ok {
				return false
			}
			for _, now := range strings.Split(phases(u), ", ") {
				name, phase, _ := strings.Cut(now, " ")
				if last := before[name]; last != phase {
					before[name] = phase
					if phase == "Upgrading" || last == "Upgrading" {
						out.order = append(out.order, now)
					}
				}
			}
			phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
			target, _, _ := unstructured.NestedString(u.Object, "status", "version")
			return phase == "Complete" && target == version
		})
	})
	done.Go(func() {
		at := map[string]bool{}
		_ = watchUntil(ctx, p.client.CoreV1().Nodes(), metav1.ListOptions{}, func(e watch.Event) bool {
			if n, ok := e.Object.(*corev1.Node); ok {
				report, _ := nodeupgrade.ParseReport(n.Annotations[nodeupgrade.ReportAnnotation])
				delete(at, n.Name)
				if report.Phase != "" && !report.Phase.Final() {
					at[n.Name] = true
				}
				out.most = max(out.most, len(at))
			}
			return false
		})
	})
	return func() turns {
		done.Wait()
		return out
	}
}

// publishForeign makes a release that is signed by somebody else.
func (p *planTest) publishForeign(version, binary string) {
	p.t.Helper()
	key := filepath.Join(p.t.TempDir(), "key")
	signingKey(p.t, key)
	goTool(p.t, "run", "./scripts/package", "release", "-level", "1", "-key", key, "-version", version,
		"-out", filepath.Join(p.releases.dir, version), "amd64="+binary)
}
