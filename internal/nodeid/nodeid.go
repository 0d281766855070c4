// Package nodeid is the identity key of a machine: an ECDSA P-256 key that is
// made once and stays on the machine, outside of limpet's data directory. With
// it a machine proves, when it asks for a certificate anew, that it is the one
// that had the node's name before. A join token alone therefore does not give
// anybody the name of a node that exists.
//
// The proof is a signature of the DER of the certificate request. The request
// is signed with the key that the certificate will be of, so that a proof is of
// use only to whoever has that key: copying proof and request from the cluster
// gives a thief a certificate without its key.
package nodeid

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// Annotations of a CertificateSigningRequest that carry the proof.
const (
	// KeyAnnotation is the public key: base64 of the DER of its SubjectPublicKeyInfo.
	KeyAnnotation = "limpet.io/node-key"
	// ProofAnnotation is the signature: base64 of an ASN.1 ECDSA signature, by
	// that key, of the SHA-256 of the DER of spec.request.
	ProofAnnotation = "limpet.io/node-proof"
)

const pemType = "PRIVATE KEY"

// maxEncoded bounds what is decoded: a P-256 key is 124 characters, a signature at most 96.
const maxEncoded = 256

// What is wrong with a key or a proof.
var (
	ErrKey   = errors.New("not the PEM of an ECDSA P-256 private key")
	ErrProof = errors.New("the proof of the node's identity is not valid")
)

// Key is the private identity key.
type Key struct{ private *ecdsa.PrivateKey }

// Generate makes a new key.
func Generate() (Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("make node identity key: %w", err)
	}
	return Key{private}, nil
}

// Parse reads the PEM that Marshal wrote. The error is ErrKey, without a trace
// of the content.
func Parse(data []byte) (Key, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || len(rest) > 0 {
		return Key{}, ErrKey
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, ErrKey
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return Key{}, ErrKey
	}
	return Key{private}, nil
}

// Marshal returns the key as PKCS #8 in PEM: a secret.
func (k Key) Marshal() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode node identity key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// Fingerprint is Fingerprint of the key's public half.
func (k Key) Fingerprint() (string, error) {
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return "", fmt.Errorf("encode node identity key: %w", err)
	}
	return fingerprint(der), nil
}

// Sign proves the identity for a certificate request (the DER of PKCS #10). It
// returns the values of KeyAnnotation and ProofAnnotation.
func (k Key) Sign(requestDER []byte) (key, proof string, err error) {
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return "", "", fmt.Errorf("encode node identity key: %w", err)
	}
	digest := sha256.Sum256(requestDER)
	signature, err := ecdsa.SignASN1(rand.Reader, k.private, digest[:])
	if err != nil {
		return "", "", fmt.Errorf("sign certificate request with the node's identity key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(der), base64.StdEncoding.EncodeToString(signature), nil
}

// Verify checks the annotations of a certificate request against its DER and
// returns the fingerprint of the key that signed. Every failure is an ErrProof.
func Verify(requestDER []byte, key, proof string) (fingerprintHex string, err error) {
	der, err := decode(key)
	if err != nil {
		return "", fmt.Errorf("%w: annotation %s: %w", ErrProof, KeyAnnotation, err)
	}
	public, err := parsePublic(der)
	if err != nil {
		return "", fmt.Errorf("%w: annotation %s: %w", ErrProof, KeyAnnotation, err)
	}
	signature, err := decode(proof)
	if err != nil {
		return "", fmt.Errorf("%w: annotation %s: %w", ErrProof, ProofAnnotation, err)
	}
	digest := sha256.Sum256(requestDER)
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		return "", fmt.Errorf("%w: the signature is not of this key and this request", ErrProof)
	}
	return fingerprint(der), nil
}

// parsePublic accepts P-256 keys in their one canonical encoding, so that a
// key has one fingerprint.
func parsePublic(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("not a public key")
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("not an ECDSA P-256 key")
	}
	canonical, err := x509.MarshalPKIXPublicKey(public)
	if err != nil || string(canonical) != string(der) {
		return nil, errors.New("not encoded as DER should be")
	}
	return public, nil
}

func decode(text string) ([]byte, error) {
	switch {
	case text == "":
		return nil, errors.New("missing")
	case len(text) > maxEncoded:
		return nil, errors.New("too long")
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || base64.StdEncoding.EncodeToString(data) != text { // it skips line ends
		return nil, errors.New("not base64")
	}
	return data, nil
}

// fingerprint is the SHA-256 of the public key's SubjectPublicKeyInfo, in hex (64 digits).
func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}
