package approve

import (
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/limpetio/limpet/internal/noderecord"
)

// Reasons of Events on a Node.
const (
	eventNameRefused    = "NodeNameRefused"    // somebody else asked for its name
	eventRequestRefused = "NodeRequestRefused" // it asked for what it may not have
)

// maxEvent is what the API takes.
const maxEvent = 1024

func everything() labels.Selector { return labels.Everything() }

// strip drops what the informers need not hold: of a Node all but its name and
// addresses, of a request that is decided all but that.
func strip(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Node:
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion},
			Status:     corev1.NodeStatus{Addresses: o.Status.Addresses},
		}, nil
	case *certificatesv1.CertificateSigningRequest:
		if decided(o) {
			return &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion},
				Status:     certificatesv1.CertificateSigningRequestStatus{Conditions: o.Status.Conditions, Certificate: []byte("issued")[:min(len(o.Status.Certificate), 6)]},
			}, nil
		}
		o.ManagedFields = nil
	}
	return obj, nil
}

func addressesDiffer(a, b *corev1.Node) bool {
	return !slices.Equal(a.Status.Addresses, b.Status.Addresses)
}

func (r *run) recorder(b record.EventBroadcaster) record.EventRecorder {
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: r.client.CoreV1().Events(metav1.NamespaceAll)})
	return b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: fieldManager})
}

// tell writes a denial as an Event on the Node that it is about. The recorder
// holds back who makes many.
func (r *run) tell(csr *certificatesv1.CertificateSigningRequest, request Request, d Decision) {
	about, reason := request.Node, eventNameRefused
	if d.Reason != noderecord.ReasonNameTaken {
		asker, isNode := nodeOf(csr.Spec)
		if !isNode {
			return // no Node has to do with it; the log tells
		}
		about, reason = asker, eventRequestRefused
	}
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: about, UID: types.UID(about)} // as the kubelet's own Events have it
	if node, err := r.nodes.Get(about); err == nil {
		ref.UID = node.UID
	}
	message := "Denied a certificate to " + clip(csr.Spec.Username) + " (request " + csr.Name + "): " + d.Message
	r.events.Event(ref, corev1.EventTypeWarning, reason, message[:min(len(message), maxEvent)])
}
