// Package tokensecret is how a token is kept in the cluster: as a Secret of
// Kubernetes' own bootstrap token type, so that the API server authenticates
// its bearer without any code of ours. It does no I/O.
package tokensecret

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/limpetio/limpet/internal/token"
)

// Namespace is where the API server looks for bootstrap tokens.
const Namespace = metav1.NamespaceSystem

// FieldSelector selects the Secrets of all tokens in Namespace.
const FieldSelector = "type=" + string(bootstrapapi.SecretTypeBootstrapToken)

const (
	// ownLabel marks the server's own token, the one that never expires.
	ownLabel = "limpet.io/server-token"
	// generationAnnotation counts rotations of the server's own token, so that
	// of two, after a rotation that was cut off, the newer one is known.
	generationAnnotation = "limpet.io/token-generation"
	// configuredAnnotation tells that the server's configuration names its token,
	// which may be a flag or a variable that no other process sees.
	configuredAnnotation = "limpet.io/token-configured"
)

// Role is what machines join as with a token.
type Role string

// The roles.
const (
	Agent  Role = "agent"
	Server Role = "server"
)

// Roles are all of them.
func Roles() []Role { return []Role{Agent, Server} }

// Group is the group, beside system:bootstrappers, that bearers of a token of
// the role are in.
func (r Role) Group() string {
	return bootstrapapi.BootstrapDefaultGroup + ":limpet:" + string(r) + "s"
}

// Name is the name of the Secret of the token with this id.
func Name(id string) string { return bootstrapapi.BootstrapTokenSecretPrefix + id }

// Record is a token with what the cluster knows of it.
type Record struct {
	Token token.Token // without a hash
	// Role is empty for a token that somebody made for other groups.
	Role        Role
	Description string
	// Expires is when the token ends to be valid, in whole seconds; zero: never.
	Expires time.Time
	// Own marks the server's own token; Generation counts its rotations, and
	// Configured tells that the running server's configuration names it.
	Own        bool
	Generation int64
	Configured bool
}

// Expired reports whether the token's time is over.
func (r Record) Expired(now time.Time) bool { return !r.Expires.IsZero() && !r.Expires.After(now) }

// Read is the record of a Secret. The error, which names the Secret, tells that
// it holds no token that the API server would accept, whenever it is.
func Read(s *corev1.Secret) (Record, error) {
	fail := func(format string, args ...any) (Record, error) {
		return Record{}, fmt.Errorf("secret %s/%s: %s", s.Namespace, s.Name, fmt.Sprintf(format, args...))
	}
	if s.Type != bootstrapapi.SecretTypeBootstrapToken {
		return fail("its type is %q", s.Type)
	}
	t, err := token.New(string(s.Data[bootstrapapi.BootstrapTokenIDKey]), string(s.Data[bootstrapapi.BootstrapTokenSecretKey]))
	if err != nil {
		return fail("%v", err)
	}
	if s.Name != Name(t.ID()) {
		return fail("its name does not fit its id")
	}
	r := Record{Token: t, Description: string(s.Data[bootstrapapi.BootstrapTokenDescriptionKey]), Own: s.Labels[ownLabel] == "true"}
	groups := strings.Split(string(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), ",")
	for _, role := range Roles() {
		if slices.Contains(groups, role.Group()) {
			r.Role = role
		}
	}
	if text := s.Data[bootstrapapi.BootstrapTokenExpirationKey]; len(text) > 0 {
		if r.Expires, err = time.Parse(time.RFC3339, string(text)); err != nil {
			return fail("its expiration is no time: %v", err)
		}
	}
	if text := s.Annotations[generationAnnotation]; text != "" {
		r.Generation, _ = strconv.ParseInt(text, 10, 64) // zero, the oldest, if it is none
	}
	r.Configured = s.Annotations[configuredAnnotation] == "true"
	return r, nil
}

// Secret is the Secret of the record.
func (r Record) Secret() *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name(r.Token.ID())},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(r.Token.ID()),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(r.Token.Secret()),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(r.Role.Group()),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
		},
	}
	if r.Description != "" {
		s.Data[bootstrapapi.BootstrapTokenDescriptionKey] = []byte(r.Description)
	}
	if !r.Expires.IsZero() {
		s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(r.Expires.UTC().Format(time.RFC3339))
	}
	if r.Own {
		s.Labels = map[string]string{ownLabel: "true"}
		s.Annotations = map[string]string{
			generationAnnotation: strconv.FormatInt(r.Generation, 10),
			configuredAnnotation: strconv.FormatBool(r.Configured),
		}
	}
	return s
}

// IsIn reports whether a Secret has exactly the record's data, and its labels and
// annotations among others.
func (r Record) IsIn(current *corev1.Secret) bool {
	wanted := r.Secret()
	return maps.EqualFunc(current.Data, wanted.Data, bytes.Equal) &&
		contains(current.Labels, wanted.Labels) && contains(current.Annotations, wanted.Annotations)
}

func contains(all, some map[string]string) bool {
	for k, v := range some {
		if got, ok := all[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Into is a copy of a Secret, with its version, that holds the record. Labels
// and annotations of others stay.
func (r Record) Into(current *corev1.Secret) *corev1.Secret {
	wanted, out := r.Secret(), current.DeepCopy()
	out.Data = wanted.Data
	for k, v := range wanted.Labels {
		metav1.SetMetaDataLabel(&out.ObjectMeta, k, v)
	}
	for k, v := range wanted.Annotations {
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, k, v)
	}
	return out
}

// OwnRecord is the server's own token as it has to be in the cluster.
func OwnRecord(t token.Token, generation int64) Record {
	return Record{Token: t, Role: Server, Description: "the server's own token", Own: true, Generation: generation}
}

// Newest is the server's own token among the records: of several, the one of the
// last rotation. ok is false if there is none.
func Newest(records []Record) (newest Record, ok bool) {
	for _, r := range records {
		switch {
		case !r.Own:
		case !ok, r.Generation > newest.Generation,
			r.Generation == newest.Generation && r.Token.ID() > newest.Token.ID():
			newest, ok = r, true
		}
	}
	return newest, ok
}
