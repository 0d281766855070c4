package standin

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/limpetio/limpet/agent/standin/journal"
)

func boxNode() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: testNode, UID: "node-uid", Labels: map[string]string{"zone": "mast"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.42.1.0/24", PodCIDRs: []string{"10.42.1.0/24"}},
		Status: corev1.NodeStatus{
			Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}},
			Allocatable: corev1.ResourceList{corev1.ResourcePods: apiresource.MustParse("110")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// formats are those that components ask for.
func formats() map[string]func(*rest.Config) {
	return map[string]func(*rest.Config){
		"protobuf": func(*rest.Config) {},
		"json":     func(c *rest.Config) { c.ContentType, c.AcceptContentTypes = "", "" },
	}
}

// A real informer, as the kubelet's for its pods, in both formats.
func TestInformerFollowsPods(t *testing.T) {
	t.Parallel()
	for name, format := range formats() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			elsewhere := testPod("elsewhere")
			elsewhere.Spec.NodeName = "box2"
			f := newFixture(t, testPod("web"), testPod("db"), elsewhere)
			cfg := f.kubeletConfig()
			format(cfg)
			cfg.Timeout = 0
			c := clientFor(t, cfg)
			factory := informers.NewSharedInformerFactoryWithOptions(c, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", testNode).String()
			}))
			var updates atomic.Int32
			informer := factory.Core().V1().Pods()
			_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, _ any) { updates.Add(1) }})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			factory.Start(ctx.Done())
			if !cache.WaitForCacheSync(ctx.Done(), informer.Informer().HasSynced) {
				t.Fatal("the informer did not get its list")
			}
			if got := len(informer.Informer().GetStore().List()); got != 2 {
				t.Fatalf("%d pods in the informer, want 2", got)
			}
			patch := []byte(`{"status":{"phase":"Running","podIP":"10.42.1.9"},"spec":{"nodeName":"box9"}}`)
			if _, err := c.CoreV1().Pods("shop").Patch(ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the status arrives", func() bool {
				pod, err := informer.Lister().Pods("shop").Get("web")
				return err == nil && pod.Status.PodIP == "10.42.1.9" && pod.Spec.NodeName == testNode && updates.Load() > 0
			})
			uid := types.UID("uid-db")
			if err := c.CoreV1().Pods("shop").Delete(ctx, "db", *metav1.NewPreconditionDeleteOptions("other")); !apierrors.IsConflict(err) {
				t.Errorf("deletion of a pod of the same name: %v", err)
			}
			zero := int64(0)
			if err := c.CoreV1().Pods("shop").Delete(ctx, "db", metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the deletion arrives", func() bool { return len(informer.Informer().GetStore().List()) == 1 })
		})
	}
}

// A watch that asks for a list first, as client-go does by default, ends it with a bookmark.
func TestSelectorsAndWatchList(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testPod("web"), testPod("db"))
	ctx := t.Context()
	c := f.kubelet()
	yes := true
	w, err := c.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{
		LabelSelector: "app=db", SendInitialEvents: &yes, AllowWatchBookmarks: true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var seen []string
	for e := range w.ResultChan() {
		pod := e.Object.(*corev1.Pod)
		seen = append(seen, string(e.Type)+" "+pod.Name)
		if pod.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			break
		}
	}
	if got := strings.Join(seen, ", "); got != "ADDED db, BOOKMARK " {
		t.Errorf("the watch began with %s", got)
	}
	list, err := c.CoreV1().Pods("shop").List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=web"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "web" {
		t.Errorf("list by name: %v, %v", list, err)
	}
	if list, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=other"}); err != nil || len(list.Items) != 0 {
		t.Errorf("list of another node's pods: %v, %v", list, err)
	}
	if _, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.hostNetwork=true"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a field that cannot be selected by: %v", err)
	}
	// As the kubelet and kube-proxy select Services.
	if _, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{FieldSelector: "spec.clusterIP!=None"}); err != nil {
		t.Errorf("Services with an address: %v", err)
	}
	if _, err := c.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{ResourceVersion: "999"}); !apierrors.IsResourceExpired(err) {
		t.Errorf("watch from another revision: %v", err)
	}
}

func TestNodeRegistration(t *testing.T) {
	t.Parallel()
	f := newFixture(t, boxNode())
	ctx, nodes := t.Context(), f.kubelet().CoreV1().Nodes()
	if _, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: testNode}}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Fatalf("registering again: %v", err)
	}
	node, err := nodes.Get(ctx, testNode, metav1.GetOptions{})
	if err != nil || node.Spec.PodCIDR != "10.42.1.0/24" || len(node.Status.Conditions) != 1 || node.Status.Conditions[0].Status != corev1.ConditionUnknown || node.Status.Allocatable.Pods().Value() != 110 {
		t.Fatalf("the node is %+v, %v", node, err)
	}
	patch := []byte(`{"status":{"conditions":[{"type":"Ready","status":"True"}]},"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"192.0.2.7"}},"spec":{"unschedulable":true}}`)
	node, err = nodes.Patch(ctx, testNode, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil || node.Status.Conditions[0].Status != corev1.ConditionTrue || node.Annotations["flannel.alpha.coreos.com/public-ip"] == "" || node.Spec.Unschedulable {
		t.Fatalf("after a patch of its status the node is %+v, %v", node, err)
	}
	same, err := nodes.Patch(ctx, testNode, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil || same.ResourceVersion != node.ResourceVersion {
		t.Errorf("a patch that changes nothing made revision %s of %s, %v", same.ResourceVersion, node.ResourceVersion, err)
	}
}

func TestLeasesAndEvents(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, c := t.Context(), f.kubelet()
	leases := c.CoordinationV1().Leases("kube-node-lease")
	lease, err := leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: testNode}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := metav1.NewMicroTime(time.Now())
	stale := lease.DeepCopy()
	lease.Spec.RenewTime = &now
	if _, err = leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	stale.Spec.RenewTime = &metav1.MicroTime{Time: now.Add(time.Second)}
	if _, err = leases.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old lease: %v", err)
	}
	for range 2 { // dropped: the second is no conflict
		if _, err := c.CoreV1().Events("shop").Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "shop"}}, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
		if _, err := c.EventsV1().Events("shop").Create(ctx, &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "shop"}}, metav1.CreateOptions{}); err != nil {
			t.Error(err)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, accounts := t.Context(), f.kubelet().CoreV1().ServiceAccounts("shop")
	hour := int64(3600)
	ask := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{"api"}, ExpirationSeconds: &hour,
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "web", UID: "uid-web"},
	}}
	first, err := accounts.CreateToken(ctx, "default", ask, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := accounts.CreateToken(ctx, "default", ask, metav1.CreateOptions{})
	if err != nil || first.Status.Token != second.Status.Token || strings.Count(first.Status.Token, ".") != 2 {
		t.Errorf("tokens %q and %q, %v", first.Status.Token, second.Status.Token, err)
	}
	// The kubelet asks anew when a fifth of the life is left, or a day has passed.
	end := first.Status.ExpirationTimestamp.Time
	if left, life := time.Until(end), time.Duration(*first.Spec.ExpirationSeconds)*time.Second; left > life/5 || left < time.Minute {
		t.Errorf("the token is used for %s of %s", left, life)
	}
	if _, err := accounts.CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a token for no pod: %v", err)
	}
}

// What only a server can do fails in a way that clients repeat later.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, c := t.Context(), f.kubelet()
	_, err := c.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{})
	if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "needs a server of the cluster") {
		t.Errorf("SubjectAccessReview: %v", err)
	}
	if _, err := c.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{}, metav1.CreateOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("TokenReview: %v", err)
	}
	if _, err := c.AppsV1().Deployments("shop").List(ctx, metav1.ListOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("Deployments: %v", err)
	}
	_, err = c.CoreV1().Pods("shop").Create(ctx, testPod("new"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a new pod: %v", err)
	}
	mirror := testPod("static")
	mirror.ResourceVersion, mirror.Annotations = "", map[string]string{corev1.MirrorPodAnnotationKey: "hash"}
	if _, err = c.CoreV1().Pods("shop").Create(ctx, mirror, metav1.CreateOptions{}); err != nil {
		t.Errorf("a mirror pod: %v", err)
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.kubelet().Discovery()
	if v, err := d.ServerVersion(); err != nil || v.GitVersion == "" {
		t.Errorf("version: %v, %v", v, err)
	}
	list, err := d.ServerResourcesForGroupVersion("discovery.k8s.io/v1")
	if err != nil || len(list.APIResources) != 1 || list.APIResources[0].Kind != "EndpointSlice" {
		t.Errorf("discovery: %+v, %v", list, err)
	}
	groups, lists, err := d.ServerGroupsAndResources()
	if err != nil || len(groups) < 5 || len(lists) != len(groups) {
		t.Errorf("groups: %v, %d lists, %v", groups, len(lists), err)
	}
	if body, err := d.RESTClient().Get().AbsPath("/readyz").DoRaw(t.Context()); err != nil || string(body) != "ok" {
		t.Errorf("readyz: %q, %v", body, err)
	}
}

// Each identity reads what the cluster's roles let it read, and no other gets in.
func TestAccess(t *testing.T) {
	t.Parallel()
	f := newFixture(t, boxNode(),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "key", Namespace: "shop"}, Data: map[string][]byte{"a": []byte("b")}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns", Namespace: "kube-system"}},
		&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop"}})
	reads := func(cfg *rest.Config) map[string]bool {
		c, ctx, got := clientFor(t, cfg), t.Context(), map[string]bool{}
		note := func(what string, err error) { got[what] = err == nil }
		_, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		note("nodes", err)
		_, err = c.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{})
		note("slices", err)
		_, err = c.CoreV1().Secrets("shop").Get(ctx, "key", metav1.GetOptions{})
		note("secret", err)
		_, err = c.CoreV1().ConfigMaps("kube-system").Get(ctx, "coredns", metav1.GetOptions{})
		note("coredns", err)
		_, err = c.CoreV1().Nodes().Patch(ctx, testNode, types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{})
		note("patch node", err)
		return got
	}
	all := []string{"nodes", "slices", "secret", "coredns", "patch node"}
	for _, tt := range []struct{ user, group, may string }{
		{"system:node:" + testNode, "system:nodes", "nodes slices secret coredns patch node"},
		{"limpet:kube-proxy:" + testNode, "limpet:kube-proxy", "nodes slices"},
		{"limpet:network:" + testNode, "limpet:network", "nodes"},
		{"limpet:dns:" + testNode, "limpet:dns", "nodes slices coredns"},
		{"system:node:box2", "system:nodes", ""},
		{"system:node:" + testNode, "limpet:dns", ""},
		{"admin", "system:masters", ""},
	} {
		got := reads(f.config(tt.user, tt.group))
		for _, what := range all {
			if want := strings.Contains(tt.may, what); got[what] != want {
				t.Errorf("%s in %s: %s = %v, want %v", tt.user, tt.group, what, got[what], want)
			}
		}
	}
	// A certificate of another authority, and none at all.
	other := newFixture(t)
	cfg := other.config("system:node:"+testNode, "system:nodes")
	cfg.Dial, cfg.CAFile = f.kubeletConfig().Dial, f.trust
	if _, err := clientFor(t, cfg).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("a client of another cluster was answered")
	}
	cfg = f.kubeletConfig()
	cfg.CertFile, cfg.KeyFile = "", ""
	if _, err := clientFor(t, cfg).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("a client without certificate was answered")
	}
}

// When a server is reached, watches are told, connections end, and it stays so.
func TestEndsForGood(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testPod("web"))
	c := f.kubelet()
	w, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if e := <-w.ResultChan(); e.Type != "ADDED" || e.Object.(*corev1.Pod).Annotations[Annotation] != "true" {
		t.Fatalf("the watch began with %+v", e)
	}
	if _, active := f.server.Active(); !active {
		t.Error("not active")
	}
	close(f.reached)
	e, ok := <-w.ResultChan()
	status, isStatus := e.Object.(*metav1.Status)
	if !ok || e.Type != "ERROR" || !isStatus || status.Reason != metav1.StatusReasonExpired {
		t.Errorf("the watch ended with %+v", e)
	}
	<-f.ended
	if _, err := c.CoreV1().Pods("shop").Get(t.Context(), "web", metav1.GetOptions{}); err == nil {
		t.Error("answered after its end")
	}
	if conn, err := f.server.Dial(t.Context()); err == nil {
		_ = conn.Close()
		t.Error("took a connection after its end")
	}
}

// A request that is larger than any object is refused.
func TestLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t, boxNode())
	c := f.kubelet()
	big, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{"a": strings.Repeat("x", maxBody)}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.CoreV1().Nodes().Patch(t.Context(), testNode, types.MergePatchType, big, metav1.PatchOptions{})
	if !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("a patch of %d bytes: %v", len(big), err)
	}
	cfg := f.kubeletConfig()
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, cfg.Host+"/api/v1/namespaces/shop/serviceaccounts/default/token",
		strings.NewReader(strings.Repeat("x", maxBody+1)))
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a token request of %d bytes: %s", maxBody+1, resp.Status)
	}
}

// A record with damage and with kinds of a later version serves the rest.
func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t, testPod("web"))
	if err := f.journal.Apply([]journal.Change{{Key: "pods/shop/torn", Value: []byte("\xff\xff")}, {Key: "widgets//x", Value: []byte("y")}}); err != nil {
		t.Fatal(err)
	}
	list, err := f.kubelet().CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("pods: %v, %v", list, err)
	}
}
