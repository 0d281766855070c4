package upgrades

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

// Resource is where UpgradePlans are; the definition is manifests/upgrade-plans.yaml.
func Resource() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "limpet.io", Version: "v1alpha1", Resource: "upgradeplans"}
}

const kind = "UpgradePlan"

// Plan is an UpgradePlan.
type Plan struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec   Spec   `json:"spec"`
	Status Status `json:"status,omitzero"`
}

// Spec is what shall be. The API server fills in defaults.
type Spec struct {
	// Version that the agents shall run; empty: the one that the server runs.
	Version string `json:"version,omitempty"`
	// URL is where the release is; empty: the server, if it runs that version, or
	// where releases are published.
	URL string `json:"url,omitempty"`
	// NodeSelector says which nodes; nil: all agents.
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// Concurrency is how many agents are upgraded at a time.
	Concurrency int `json:"concurrency,omitempty"`
	// Cordon keeps new pods from a node while it is upgraded.
	Cordon bool `json:"cordon,omitempty"`
	// Drain evicts the node's pods first, and cordons; nil: they run through.
	Drain *Drain `json:"drain,omitempty"`
	// Timeout is how long a new version may take to get ready, as "5m".
	Timeout string `json:"timeout,omitempty"`
}

// Drain says how pods are evicted.
type Drain struct {
	Timeout string `json:"timeout,omitempty"`
	// Force evicts pods that no controller brings back.
	Force bool `json:"force,omitempty"`
	// DeleteEmptyDirData evicts pods whose emptyDir volumes are lost with them.
	DeleteEmptyDirData bool `json:"deleteEmptyDirData,omitempty"`
}

// Status is how far the plan has come.
type Status struct {
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Version is what spec.version means at the moment.
	Version string    `json:"version,omitempty"`
	Phase   PlanPhase `json:"phase,omitempty"`
	// Message says in one line where the plan stands, and why.
	Message string `json:"message,omitempty"`
	// Upgraded is how many of how many agents run the version: "2/3".
	Upgraded   string             `json:"upgraded,omitempty"`
	Nodes      []Record           `json:"nodes,omitempty"`
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PlanPhase is where a plan stands as a whole.
type PlanPhase string

// The phases of a plan.
const (
	Refused     PlanPhase = "Refused"     // it is not carried out as it is
	Waiting     PlanPhase = "Waiting"     // no node that is left can be begun with
	Progressing PlanPhase = "Progressing" // a node has its turn
	PlanFailed  PlanPhase = "Failed"      // a node has failed, and no other is begun with
	Complete    PlanPhase = "Complete"
)

// Record is where one node stands.
type Record struct {
	Name  string    `json:"name"`
	UID   string    `json:"uid,omitempty"`
	Phase NodePhase `json:"phase"`
	// Reason is why, for a person.
	Reason string `json:"reason,omitempty"`
	// From is the version that the node ran before.
	From string `json:"from,omitempty"`
	// Since is when the phase began, by the server's clock.
	Since metav1.Time `json:"since"`
}

// NodePhase is where one node stands.
type NodePhase string

// The phases of a node.
const (
	Pending   NodePhase = "Pending"
	Draining  NodePhase = "Draining"
	Upgrading NodePhase = "Upgrading"
	Upgraded  NodePhase = "Upgraded"
	Failed    NodePhase = "Failed"
	Skipped   NodePhase = "Skipped"
)

// underWay: the node has its turn.
func (p NodePhase) underWay() bool { return p == Draining || p == Upgrading }

// Defaults, as the definition of the resource has them, too.
const (
	defaultTimeout     = 5 * time.Minute
	defaultConcurrency = 1
)

func parsePlan(u *unstructured.Unstructured) (*Plan, error) {
	var p Plan
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &p); err != nil {
		return nil, fmt.Errorf("read %s %s: %w", kind, u.GetName(), err)
	}
	return &p, nil
}

// withStatus is the object to write.
func (p *Plan) withStatus(s Status) (*unstructured.Unstructured, error) {
	out := *p
	out.Status = s
	out.APIVersion, out.Kind = Resource().GroupVersion().String(), kind
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&out)
	if err != nil {
		return nil, fmt.Errorf("write %s %s: %w", kind, p.Name, err)
	}
	return &unstructured.Unstructured{Object: object}, nil
}

// within bounds a duration of the specification by what agents accept.
func within(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return defaultTimeout
	}
	return min(max(d, nodeupgrade.MinTimeout), nodeupgrade.MaxTimeout)
}
