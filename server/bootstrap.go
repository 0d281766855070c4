package server

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/limpetio/limpet/internal/component"
)

// The two post-start hooks of the apiserver that sleep a second before they do
// anything (wait.Poll in pkg/registry/rbac/rest and pkg/registry/scheduling/rest).
// Everything else would wait for them; see seedPolicy.
const slowHooks = "?exclude=poststarthook/rbac/bootstrap-roles&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"

// seedPolicy creates the roles, bindings and priority classes that every cluster
// has, as far as they are missing, from upstream's own tables and without the
// sleep that upstream's hooks begin with. On existing data nothing is missing.
// The hooks follow and reconcile what changed with a new Kubernetes version.
func seedPolicy(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	s := &seeder{ctx: ctx}
	s.group.SetLimit(16) // the datastore commits one after another; more would only queue
	rbac := client.RbacV1()
	roles, err := names(rbac.ClusterRoles().List(ctx, metav1.ListOptions{}))
	if err != nil {
		return fmt.Errorf("list cluster roles: %w", err)
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		seed(s, roles, r.Name, &r, rbac.ClusterRoles().Create)
	}
	bindings, err := names(rbac.ClusterRoleBindings().List(ctx, metav1.ListOptions{}))
	if err != nil {
		return fmt.Errorf("list cluster role bindings: %w", err)
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		seed(s, bindings, b.Name, &b, rbac.ClusterRoleBindings().Create)
	}
	classes, err := names(client.SchedulingV1().PriorityClasses().List(ctx, metav1.ListOptions{}))
	if err != nil {
		return fmt.Errorf("list priority classes: %w", err)
	}
	for _, c := range schedulingv1.SystemPriorityClasses() {
		seed(s, classes, c.Name, c, client.SchedulingV1().PriorityClasses().Create)
	}
	for namespace, list := range bootstrappolicy.NamespaceRoles() {
		for _, r := range list {
			seed(s, nil, r.Name, &r, rbac.Roles(namespace).Create)
		}
	}
	for namespace, list := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range list {
			seed(s, nil, b.Name, &b, rbac.RoleBindings(namespace).Create)
		}
	}
	if err := s.group.Wait(); err != nil {
		return fmt.Errorf("create default policy: %w", err)
	}
	return awaitAccess(ctx, client,
		access{user: "system:kube-controller-manager", verb: "create", resource: "serviceaccounts", subresource: "token", namespace: "kube-system"})
}

// seeder creates objects side by side.
type seeder struct {
	ctx   context.Context
	group errgroup.Group
}

func seed[T any](s *seeder, there sets.Set[string], name string, obj *T, create func(context.Context, *T, metav1.CreateOptions) (*T, error)) {
	if there.Has(name) {
		return
	}
	s.group.Go(func() error {
		if _, err := create(s.ctx, obj, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

// access is something that a user, maybe as a member of userGroup, must be allowed to do.
type access struct{ user, userGroup, verb, group, resource, subresource, namespace string }

// awaitAccess returns when the authorizer, which learns of roles by a watch,
// allows all of it. Who asks too early is refused, and ends itself (the
// controller-manager) or waits for its next attempt (every watch).
func awaitAccess(ctx context.Context, client kubernetes.Interface, wanted ...access) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, a := range wanted {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: a.user, Groups: []string{"system:authenticated", a.userGroup},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: a.verb, Group: a.group, Resource: a.resource, Subresource: a.subresource, Namespace: a.namespace,
			},
		}}
		for {
			answer, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("review access of %s: %w", a.user, err)
			}
			if answer.Status.Allowed {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// permissionsName comes between the manifests, which hold the roles, and those
// who need them.
const permissionsName = "permissions"

// permissions is ready when the roles of manifests/rbac.yaml are in force: one
// thing for each user that starts right after them.
func permissions(loopback func() *rest.Config) component.Component {
	return component.Func(permissionsName, func(ctx context.Context, ready func()) error {
		client, err := kubernetes.NewForConfig(loopback())
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		err = awaitAccess(ctx, client,
			access{user: "limpet:network:", userGroup: "limpet:network", verb: "list", resource: "nodes"},
			access{user: "limpet:kube-proxy:", userGroup: "limpet:kube-proxy", verb: "list", resource: "services"},
			access{user: "limpet:dns:", userGroup: "limpet:dns", verb: "list", resource: "services"},
			access{user: "limpet:dns-endpoints", verb: "create", group: "discovery.k8s.io", resource: "endpointslices", namespace: "kube-system"},
			access{user: "limpet:approver", verb: "list", group: "certificates.k8s.io", resource: "certificatesigningrequests"},
			access{user: "limpet:approver", verb: "create", resource: "secrets", namespace: "kube-system"},
		)
		if err != nil {
			return err
		}
		ready()
		return nil
	})
}

// names returns the names in a list.
func names(list runtime.Object, err error) (sets.Set[string], error) {
	if err != nil {
		return nil, err
	}
	found := sets.New[string]()
	err = meta.EachListItem(list, func(o runtime.Object) error {
		accessor, err := meta.Accessor(o)
		if err == nil {
			found.Insert(accessor.GetName())
		}
		return err
	})
	return found, err
}
