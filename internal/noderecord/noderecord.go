// Package noderecord is what the cluster remembers of who owns a node's name:
// one Secret for each node that has joined, written by the approver in the
// server, and by `limpet node remove` and `rejoin`. It holds no secret: it is a
// Secret because few may read those, and nobody who may not write them can
// give a name away.
package noderecord

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Namespace is where records are.
	Namespace = "kube-system"
	// SecretType is the type of a record's Secret.
	SecretType corev1.SecretType = "limpet.io/node-identity"

	// MaxRejoin is the longest time for which a name can be handed out again.
	// A record that says more was written by a server whose clock was wrong.
	MaxRejoin = 24 * time.Hour
)

// Reasons of the Denied condition of a CertificateSigningRequest. The
// condition's message is for the person at the machine that asked.
const (
	// ReasonNameTaken: the name is that of a node with another identity key.
	ReasonNameTaken = "NodeNameTaken"
	// ReasonRefused: the request is not one that limpet approves.
	ReasonRefused = "NodeRequestRefused"
)

const (
	namePrefix = "limpet-node-"
	maxName    = 253 // of a Secret

	keyNode        = "node"
	keyFingerprint = "fingerprint"
	keyJoined      = "joined"
	keyRejoinUntil = "rejoin-until"
	keyGone        = "gone"
)

// Record says which identity key a node's name belongs to.
type Record struct {
	// Node is the name.
	Node string
	// Fingerprint is that of the identity key (see nodeid.Verify). It is empty
	// when nothing but a permission to rejoin is known of the node.
	Fingerprint string
	// Joined is when the node was last let in with a token; zero if unknown.
	Joined time.Time
	// RejoinUntil is until when another key may take the name; zero: it may not.
	RejoinUntil time.Time
	// Gone is since when the node has been known to have no Node; zero if it has one.
	Gone time.Time
}

// RejoinAllowed reports whether another key may take the name at the time now.
func (r Record) RejoinAllowed(now time.Time) bool {
	return now.Before(r.RejoinUntil) && r.RejoinUntil.Sub(now) <= MaxRejoin
}

// SecretName is the name of the Secret that records the node. A node name that
// is too long to be a part of it is shortened and hashed.
func SecretName(node string) string {
	if len(namePrefix)+len(node) <= maxName {
		return namePrefix + node
	}
	sum := sha256.Sum256([]byte(node))
	hash := "-" + hex.EncodeToString(sum[:16])
	return namePrefix + strings.TrimRight(node[:maxName-len(namePrefix)-len(hash)], "-.") + hash
}

// FromSecret reads the record of a node. What is damaged counts as not there; a
// Secret that is of another node has no fingerprint, so that nobody's key fits.
func FromSecret(node string, s *corev1.Secret) Record {
	if s.Type != SecretType || string(s.Data[keyNode]) != node {
		return Record{Node: node}
	}
	return Record{
		Node:        node,
		Fingerprint: string(s.Data[keyFingerprint]),
		Joined:      timeOf(s.Data[keyJoined]),
		RejoinUntil: timeOf(s.Data[keyRejoinUntil]),
		Gone:        timeOf(s.Data[keyGone]),
	}
}

// NodeOf returns the name of the node that the Secret records; "" if it records none.
func NodeOf(s *corev1.Secret) string {
	node := string(s.Data[keyNode])
	if s.Type != SecretType || SecretName(node) != s.Name {
		return ""
	}
	return node
}

// Secret is the record as it is stored.
func (r Record) Secret() *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: SecretName(r.Node), Namespace: Namespace,
			Labels: map[string]string{"app.kubernetes.io/managed-by": "limpet"},
		},
		Type: SecretType,
	}
	r.WriteTo(s)
	return s
}

// WriteTo replaces the content of an existing Secret, whose other fields, the
// resourceVersion among them, stay.
func (r Record) WriteTo(s *corev1.Secret) {
	s.Data = map[string][]byte{keyNode: []byte(r.Node)}
	if r.Fingerprint != "" {
		s.Data[keyFingerprint] = []byte(r.Fingerprint)
	}
	for key, t := range map[string]time.Time{keyJoined: r.Joined, keyRejoinUntil: r.RejoinUntil, keyGone: r.Gone} {
		if !t.IsZero() {
			s.Data[key] = []byte(t.UTC().Format(time.RFC3339))
		}
	}
}

func timeOf(data []byte) time.Time {
	t, err := time.Parse(time.RFC3339, string(data))
	if err != nil {
		return time.Time{}
	}
	return t
}
