package standin

import (
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is a resource that the stand-in knows.
type kind struct {
	gvr        schema.GroupVersionResource
	kind       string
	namespaced bool
	newObject  func() runtime.Object
	newList    func() runtime.Object
	// recorded is set for what the journal holds; the rest begins empty.
	recorded bool
	// readOnly is set for what components watch and only a server can make.
	readOnly bool
}

func (k kind) gvk() schema.GroupVersionKind { return k.gvr.GroupVersion().WithKind(k.kind) }

// The resources, by the names that keys in the journal begin with.
const (
	pods            = "pods"
	nodes           = "nodes"
	services        = "services"
	endpointSlices  = "endpointslices"
	namespaces      = "namespaces"
	secrets         = "secrets"
	configMaps      = "configmaps"
	claims          = "persistentvolumeclaims"
	volumes         = "persistentvolumes"
	runtimeClasses  = "runtimeclasses"
	csiDrivers      = "csidrivers"
	csiNodes        = "csinodes"
	serviceCIDRs    = "servicecidrs"
	podCertificates = "podcertificaterequests"
	leases          = "leases"
	events          = "events"
)

// catalog lists what a node's components ask for, apart from subresources.
func catalog() []kind {
	core, storage := corev1.SchemeGroupVersion, storagev1.SchemeGroupVersion
	return []kind{
		of[corev1.Pod, corev1.PodList](core, pods, "Pod", inNamespaces, record),
		of[corev1.Node, corev1.NodeList](core, nodes, "Node", record),
		of[corev1.Service, corev1.ServiceList](core, services, "Service", inNamespaces, record),
		of[corev1.Namespace, corev1.NamespaceList](core, namespaces, "Namespace", record),
		of[corev1.Secret, corev1.SecretList](core, secrets, "Secret", inNamespaces, record),
		of[corev1.ConfigMap, corev1.ConfigMapList](core, configMaps, "ConfigMap", inNamespaces, record),
		of[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](core, claims, "PersistentVolumeClaim", inNamespaces, record),
		of[corev1.PersistentVolume, corev1.PersistentVolumeList](core, volumes, "PersistentVolume", record),
		of[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](discoveryv1.SchemeGroupVersion, endpointSlices, "EndpointSlice", inNamespaces, record),
		of[nodev1.RuntimeClass, nodev1.RuntimeClassList](nodev1.SchemeGroupVersion, runtimeClasses, "RuntimeClass", record),
		of[storagev1.CSIDriver, storagev1.CSIDriverList](storage, csiDrivers, "CSIDriver", record),
		of[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList](networkingv1.SchemeGroupVersion, serviceCIDRs, "ServiceCIDR", record),
		of[certificatesv1.PodCertificateRequest, certificatesv1.PodCertificateRequestList](certificatesv1.SchemeGroupVersion, podCertificates, "PodCertificateRequest", inNamespaces, readOnly),
		of[storagev1.CSINode, storagev1.CSINodeList](storage, csiNodes, "CSINode"),
		of[coordinationv1.Lease, coordinationv1.LeaseList](coordinationv1.SchemeGroupVersion, leases, "Lease", inNamespaces),
		of[corev1.Event, corev1.EventList](core, events, "Event", inNamespaces),
		of[eventsv1.Event, eventsv1.EventList](eventsv1.SchemeGroupVersion, events, "Event", inNamespaces),
	}
}

func inNamespaces(k *kind) { k.namespaced = true }
func record(k *kind)       { k.recorded = true }
func readOnly(k *kind)     { k.readOnly = true }

// of describes the resource of an object type and its list type.
func of[O, L any, PO interface {
	*O
	runtime.Object
}, PL interface {
	*L
	runtime.Object
}](gv schema.GroupVersion, resource, kindName string, options ...func(*kind)) kind {
	k := kind{
		gvr: gv.WithResource(resource), kind: kindName,
		newObject: func() runtime.Object { return PO(new(O)) },
		newList:   func() runtime.Object { return PL(new(L)) },
	}
	for _, option := range options {
		option(&k)
	}
	return k
}

// recordedKinds are the kinds of the journal, by resource.
func recordedKinds() map[string]kind {
	kinds := map[string]kind{}
	for _, k := range catalog() {
		if k.recorded {
			kinds[k.gvr.Resource] = k
		}
	}
	return kinds
}

// journalKey names an object in the journal; namespace is empty for what has none.
func journalKey(resource, namespace, name string) string {
	return resource + "/" + namespace + "/" + name
}

// message is what all types of the API are: a protocol buffer.
type message interface {
	runtime.Object
	Marshal() ([]byte, error)
	Unmarshal(data []byte) error
}

// encode renders an object for the journal. Equal objects have equal bytes.
func encode(obj runtime.Object) ([]byte, error) {
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("%T is no protocol buffer", obj)
	}
	data, err := m.Marshal()
	if data == nil && err == nil {
		data = []byte{}
	}
	return data, err
}

// decode is the reverse; it fails for a kind that this version does not know.
func decode(kinds map[string]kind, key string, data []byte) (kind, runtime.Object, error) {
	resource, _, _ := strings.Cut(key, "/")
	k, ok := kinds[resource]
	if !ok {
		return kind{}, nil, fmt.Errorf("%s: unknown resource", key)
	}
	obj := k.newObject()
	m, ok := obj.(message)
	if !ok {
		return kind{}, nil, fmt.Errorf("%s: %T is no protocol buffer", key, obj)
	}
	if err := m.Unmarshal(data); err != nil {
		return kind{}, nil, fmt.Errorf("%s: %w", key, err)
	}
	return k, obj, nil
}
