package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"os"

	"k8s.io/client-go/util/keyutil"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// ServiceAccountKey makes sure that path holds a private key (ECDSA P-256,
// SEC 1, 0600) to sign service account tokens with; the apiserver takes the
// same file as the key to verify them. A key that is there is never replaced,
// because every token in the cluster would become invalid: one that cannot be
// read is an error.
func ServiceAccountKey(path string) error {
	if exists(path) {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read service account key: %w", err)
		}
		if _, err := keyutil.ParsePublicKeysPEM(data); err != nil {
			return fmt.Errorf("service account key %s holds no key that kube-apiserver can read (EC in SEC 1 form, or RSA): restore it from a backup, or remove it to have a new one made "+
				"(then all service account tokens are invalid, and pods must be restarted)", path)
		}
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("create service account key: %w", err)
	}
	// Not PKCS #8: the apiserver reads the public key out of this file too, and
	// client-go's parser finds it in a SEC 1 block only.
	data, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("create service account key: %w", err)
	}
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return fmt.Errorf("create service account key: %w", err)
	}
	return nil
}
