package standin

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/handlers"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/component-base/version"
)

const (
	// maxBody is the API server's own limit for a request.
	maxBody = 3 << 20
	// watchTimeout is when a watch ends whose client names no time, at least.
	watchTimeout = 30 * time.Minute
)

type schemaGVK = schema.GroupVersionKind

// handler answers requests from tables, by upstream's handlers.
type handler struct {
	node      string
	log       *slog.Logger
	scheme    *runtime.Scheme
	codecs    serializer.CodecFactory
	requests  *request.RequestInfoFactory
	resources map[schema.GroupVersionResource]*resource
	groups    []metav1.APIGroup
}

// resource is a table with what the handlers need to know of it.
type resource struct {
	table        *table
	main, status *handlers.RequestScope
}

func newHandler(node string, tables []*table, log *slog.Logger) (*handler, error) {
	h := &handler{
		node: node, log: log, scheme: scheme.Scheme, codecs: scheme.Codecs,
		requests:  &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
		resources: map[schema.GroupVersionResource]*resource{},
	}
	for _, t := range tables {
		r := &resource{table: t}
		var err error
		if r.main, err = h.scope(t.kind, ""); err != nil {
			return nil, err
		}
		if r.status, err = h.scope(t.kind, "status"); err != nil {
			return nil, err
		}
		h.resources[t.kind.gvr] = r
	}
	h.groups = h.apiGroups()
	return h, nil
}

// scope describes a resource to upstream's handlers. There is one version of
// everything, so nothing is ever converted.
func (h *handler) scope(k kind, subresource string) (*handlers.RequestScope, error) {
	convert := convertor{ObjectConvertor: h.scheme, kind: k}
	fieldManager, err := managedfields.NewDefaultFieldManager(managedfields.NewDeducedTypeConverter(), h.scheme, h.scheme, h.scheme,
		k.gvk(), k.gvr.GroupVersion(), subresource, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.gvr.Resource, err)
	}
	return &handlers.RequestScope{
		Namer:      handlers.ContextBasedNaming{Namer: meta.NewAccessor(), ClusterScoped: !k.namespaced},
		Serializer: h.codecs, ParameterCodec: scheme.ParameterCodec,
		Creater:   h.scheme, //nolint:misspell // upstream's name
		Convertor: convert, UnsafeConvertor: convert, Defaulter: h.scheme, Typer: h.scheme,
		FieldManager: fieldManager,
		Resource:     k.gvr, Kind: k.gvk(), Subresource: subresource,
		MetaGroupVersion: metav1.SchemeGroupVersion, HubGroupVersion: k.gvr.GroupVersion(),
		MaxRequestBodyBytes: maxBody,
	}, nil
}

// ServeHTTP implements http.Handler. Who asks has been established by TLS.
func (h *handler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	defer h.recover(w, req)
	who := clientOf(h.node, req)
	info, err := h.requests.NewRequestInfo(req)
	if err != nil {
		h.fail(w, req, apierrors.NewBadRequest(err.Error()))
		return
	}
	ctx := request.WithUser(request.WithRequestInfo(req.Context(), info), &user.DefaultInfo{Name: who.user})
	ctx = audit.WithAuditContext(request.WithReceivedTimestamp(ctx, time.Now())) // the handlers expect one
	req = req.WithContext(ctx)
	if !info.IsResourceRequest {
		h.servePath(w, req, info.Path)
		return
	}
	if !who.may(info) {
		h.fail(w, req, apierrors.NewForbidden(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Name,
			fmt.Errorf("%s may not %s this; no server has been reached, the node's own record answers", who.user, info.Verb)))
		return
	}
	h.serveResource(w, req, info)
}

// recover makes a failed request of a panic. Upstream's handlers panic on purpose
// to break off an answer that has begun.
func (h *handler) recover(w http.ResponseWriter, req *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	h.log.Error("a request to the node's own record failed", "method", req.Method, "path", req.URL.Path, "panic", p, "stack", string(debug.Stack()))
	h.fail(w, req, apierrors.NewInternalError(fmt.Errorf("panic: %v", p)))
}

func (h *handler) serveResource(w http.ResponseWriter, req *http.Request, info *request.RequestInfo) {
	if info.Resource == "serviceaccounts" && info.Subresource == "token" && info.Verb == "create" {
		h.serveToken(w, req, info.Namespace, info.Name)
		return
	}
	r, ok := h.resources[schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}]
	if !ok || info.Subresource != "" && info.Subresource != "status" {
		h.unavailable(w, req)
		return
	}
	if serve := r.verb(info); serve != nil {
		serve(w, req)
		return
	}
	h.unavailable(w, req)
}

// verb is upstream's handler for a request, nil for what only a server can do.
func (r *resource) verb(info *request.RequestInfo) http.HandlerFunc {
	s, scope := &storage{table: r.table}, r.main
	if info.Subresource == "status" {
		s.status, scope = true, r.status
	}
	if r.table.kind.readOnly && !slices.Contains([]string{"get", "list", "watch"}, info.Verb) {
		return nil
	}
	switch info.Verb {
	case "get":
		return handlers.GetResource(s, scope)
	case "patch":
		return handlers.PatchResource(s, scope, nil, patchTypes())
	case "update":
		return handlers.UpdateResource(s, scope, nil)
	}
	if s.status {
		return nil
	}
	switch info.Verb {
	case "list":
		return handlers.ListResource(s, s, scope, false, watchTimeout)
	case "watch":
		return handlers.ListResource(s, s, scope, true, watchTimeout)
	case "create":
		return handlers.CreateResource(s, scope, nil)
	case "delete":
		return handlers.DeleteResource(s, true, scope, nil)
	}
	return nil
}

// servePath answers what is no resource: health, version, discovery.
func (h *handler) servePath(w http.ResponseWriter, req *http.Request, path string) {
	if req.Method != http.MethodGet {
		h.unavailable(w, req)
		return
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case slices.Contains([]string{"healthz", "livez", "readyz"}, parts[0]) && len(parts) == 1:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, "ok")
	case path == "/version":
		info := version.Get()
		responsewriters.WriteRawJSON(http.StatusOK, info, w)
	case path == "/api":
		h.write(w, req, http.StatusOK, &metav1.APIVersions{Versions: []string{"v1"}})
	case path == "/apis":
		h.write(w, req, http.StatusOK, &metav1.APIGroupList{Groups: h.groups})
	case parts[0] == "api" && len(parts) == 2:
		h.serveVersion(w, req, schema.GroupVersion{Version: parts[1]})
	case parts[0] == "apis" && len(parts) == 3:
		h.serveVersion(w, req, schema.GroupVersion{Group: parts[1], Version: parts[2]})
	default:
		h.unavailable(w, req)
	}
}

// serveVersion lists the resources of a group version.
func (h *handler) serveVersion(w http.ResponseWriter, req *http.Request, gv schema.GroupVersion) {
	list := &metav1.APIResourceList{GroupVersion: gv.String()}
	for gvr, r := range h.resources {
		if gvr.GroupVersion() == gv {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: gvr.Resource, Namespaced: r.table.kind.namespaced, Kind: r.table.kind.kind,
				SingularName: strings.ToLower(r.table.kind.kind), Verbs: metav1.Verbs{"get", "list", "watch"},
			})
		}
	}
	if gv == (schema.GroupVersion{Version: "v1"}) {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: "serviceaccounts/token", Namespaced: true, Group: "authentication.k8s.io", Version: "v1",
			Kind: "TokenRequest", Verbs: metav1.Verbs{"create"},
		})
	}
	if len(list.APIResources) == 0 {
		h.unavailable(w, req)
		return
	}
	slices.SortFunc(list.APIResources, func(a, b metav1.APIResource) int { return strings.Compare(a.Name, b.Name) })
	h.write(w, req, http.StatusOK, list)
}

func (h *handler) apiGroups() []metav1.APIGroup {
	versions := map[schema.GroupVersion]bool{}
	for gvr := range h.resources {
		if gvr.Group != "" {
			versions[gvr.GroupVersion()] = true
		}
	}
	var groups []metav1.APIGroup
	for gv := range versions { // each group has one version
		v := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		groups = append(groups, metav1.APIGroup{Name: gv.Group, Versions: []metav1.GroupVersionForDiscovery{v}, PreferredVersion: v})
	}
	slices.SortFunc(groups, func(a, b metav1.APIGroup) int { return strings.Compare(a.Name, b.Name) })
	return groups
}

// unavailable is the answer to what only a server can do. Clients try again later.
func (h *handler) unavailable(w http.ResponseWriter, req *http.Request) {
	h.fail(w, req, apierrors.NewServiceUnavailable(fmt.Sprintf(
		"%s %s needs a server of the cluster, and none has been reached since this node started", req.Method, req.URL.Path)))
}

func (h *handler) fail(w http.ResponseWriter, req *http.Request, err error) {
	responsewriters.ErrorNegotiated(err, h.codecs, schema.GroupVersion{Version: "v1"}, w, req)
}

func writeNegotiated(codecs serializer.CodecFactory, gv schema.GroupVersion, w http.ResponseWriter, req *http.Request, code int, obj runtime.Object) {
	responsewriters.WriteObjectNegotiated(codecs, negotiation.DefaultEndpointRestrictions, gv, w, req, code, obj, false)
}

func readBody(w http.ResponseWriter, req *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, apierrors.NewRequestEntityTooLargeError(err.Error())
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return body, nil
}
