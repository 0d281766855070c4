// Package token is the format of the secret with which machines join a cluster.
// Nothing but ReadFile does I/O.
//
// The full form is
//
//	L10<64 hex digits>::<id>.<secret>
//
// The hex digits are the SHA-256 hash of the DER encoding of the cluster's root
// certificate: who joins fetches that certificate without trusting anybody and
// compares. <id>.<secret> is a Kubernetes bootstrap token: six and sixteen
// characters of a–z and 0–9. The short form is the bootstrap token alone; the
// certificate cannot be checked with it.
package token

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"strings"
)

const (
	prefix    = "L10"
	separator = "::"
	idLen     = 6
	secretLen = 16
	alphabet  = "abcdefghijklmnopqrstuvwxyz0123456789"
	// maxLen is far above the longest token, so that nobody is told about a
	// file of a gigabyte character by character.
	maxLen = 1024
)

// Hash is the SHA-256 hash of the DER encoding of a certificate.
type Hash [sha256.Size]byte

// String is the hash as 64 lower-case hex digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// HashCA is the hash of a certificate given as DER.
func HashCA(der []byte) Hash { return sha256.Sum256(der) }

// Token is a parsed token. The zero value is not a token.
//
// The secret is printed by String and Bootstrap only; a Token given to slog
// shows the id. Compare with Equal, not with ==, which takes the less time the
// earlier two secrets differ.
type Token struct {
	id, secret string
	hash       Hash
	pinned     bool
}

// New is the token of a bootstrap token's two parts, without a hash.
func New(id, secret string) (Token, error) {
	if err := checkID(id); err != nil {
		return Token{}, err
	}
	if err := checkSecret(secret); err != nil {
		return Token{}, err
	}
	return Token{id: id, secret: secret}, nil
}

// Generate makes a new token, without a hash, from the kernel's random numbers.
func Generate() Token {
	return Token{id: random(idLen), secret: random(secretLen)}
}

// GenerateSecret makes a new secret for a token that keeps its id and its hash.
func (t Token) GenerateSecret() Token {
	t.secret = random(secretLen)
	return t
}

// random is n characters of the alphabet, each as likely as any other.
func random(n int) string {
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n)
	const fair = 256 - 256%len(alphabet) // a remainder would favour the first letters
	for len(out) < n {
		_, _ = rand.Read(buf) // never fails: see crypto/rand
		for _, b := range buf {
			if int(b) < fair && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out)
}

// ID is the public part: six characters by which people and logs may name the
// token.
func (t Token) ID() string { return t.id }

// Secret is the part that nobody else may see: sixteen characters.
func (t Token) Secret() string { return t.secret }

// Bootstrap is the short form, <id>.<secret>: what the API server takes as a
// bearer token.
func (t Token) Bootstrap() string { return t.id + "." + t.secret }

// Pinned reports whether the token has the hash of the cluster's certificate.
func (t Token) Pinned() bool { return t.pinned }

// Hash is the hash of the cluster's root certificate; ok is false for a token
// of the short form.
func (t Token) Hash() (hash Hash, ok bool) { return t.hash, t.pinned }

// WithCA is the token with this hash in place of any other.
func (t Token) WithCA(hash Hash) Token {
	t.hash, t.pinned = hash, true
	return t
}

// Matches reports whether a certificate, given as DER, is the one that the
// token names. A token of the short form matches none: to trust whoever answers
// is a decision of its own, see Pinned.
func (t Token) Matches(der []byte) bool {
	hash := HashCA(der)
	return t.pinned && subtle.ConstantTimeCompare(hash[:], t.hash[:]) == 1
}

// Find returns the certificate of a bundle that the token names, or nil.
func (t Token) Find(bundle []*x509.Certificate) *x509.Certificate {
	for _, c := range bundle {
		if t.Matches(c.Raw) {
			return c
		}
	}
	return nil
}

// Root is the certificate of a server's bundle of authorities that tokens name:
// the first self-issued one, else the last, which is the highest of a chain.
// It is nil for an empty bundle.
func Root(bundle []*x509.Certificate) *x509.Certificate {
	for _, c := range bundle {
		if string(c.RawSubject) == string(c.RawIssuer) {
			return c
		}
	}
	if len(bundle) == 0 {
		return nil
	}
	return bundle[len(bundle)-1]
}

// Equal reports whether both have the same id and secret, in a time that does
// not depend on how much of the secrets is equal. Hashes are not compared: a
// short and a full form of one token are the same credential.
func (t Token) Equal(other Token) bool {
	return subtle.ConstantTimeCompare([]byte(t.Bootstrap()), []byte(other.Bootstrap())) == 1
}

// String is the token as it is typed, with its secret: the full form if it has
// a hash, else the short one.
func (t Token) String() string {
	if !t.pinned {
		return t.Bootstrap()
	}
	return prefix + t.hash.String() + separator + t.Bootstrap()
}

// LogValue shows the id alone.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.id + ".(secret)") }

func made(text string) bool { return strings.Trim(text, alphabet) == "" }
