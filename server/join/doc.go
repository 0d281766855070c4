// Package join is the server's side of joining: what a machine that has nothing
// but an address and a token finds here. The rest is Kubernetes' own: bootstrap
// tokens authenticate, certificate signing requests give a node its identity.
//
//	GET /cacerts                   anonymous: the authorities that sign the server's
//	                               certificate, as PEM. Whoever joins compares a hash of
//	                               them with the token, and trusts nobody before. 503 with
//	                               Retry-After until a token that exists can be used.
//	POST /v1-limpet/token-check    anonymous: why a token is refused, see CheckPath
//	ConfigMap kube-system/limpet-join   with the token: internal/join.Config
//
// Both paths answer 403 in the first second of a cluster's life, before the
// roles in manifests/rbac.yaml are there.
//
// Tokens keeps the Secret of the server's own token and the file it is in equal
// to each other, and removes expired tokens, a day late: until then their
// bearers are told that they are expired rather than unknown.
package join

import "time"

const (
	// CACertsPath is where the certificates of the server's authority are.
	CACertsPath = "/cacerts"
	// CheckPath is where the bearer of a token that the API server refuses
	// (401) is told why. The token is the body, in its short form, since the API
	// server would refuse it in a header before this path is reached; so it must
	// be sent only when the server's certificate has been verified.
	//
	// The answer is 200 and a Verdict as JSON. Only who presents the right
	// secret learns more than "unknown". 429 has Retry-After.
	CheckPath = "/v1-limpet/token-check"
)

// State is what the server says of a token.
type State string

// The states of a token.
const (
	Valid   State = "valid"   // the API server accepts it
	Expired State = "expired" // it was right until Verdict.Expired
	Unknown State = "unknown" // no such id, or another secret, or expired for more than a day
)

// Verdict is the answer of CheckPath.
type Verdict struct {
	State State `json:"state"`
	// Expired is when the token ended to be valid, with Expired only.
	Expired *time.Time `json:"expired,omitempty"`
}

// keepExpired is for how long an expired token is remembered.
const keepExpired = 24 * time.Hour
