package join

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcertificatesv1 "k8s.io/client-go/kubernetes/typed/certificates/v1"

	"github.com/limpetio/limpet/internal/nodeid"
)

// Proving returns a client whose certificate requests carry the proof of the
// machine's identity. A server that has lost its record of the machine, as after
// the restoration of a snapshot, learns the key anew in this way.
func Proving(client kubernetes.Interface, id nodeid.Key) kubernetes.Interface {
	return provingClient{Interface: client, id: id}
}

type provingClient struct {
	kubernetes.Interface
	id nodeid.Key
}

func (c provingClient) CertificatesV1() typedcertificatesv1.CertificatesV1Interface {
	return provingCertificates{CertificatesV1Interface: c.Interface.CertificatesV1(), id: c.id}
}

type provingCertificates struct {
	typedcertificatesv1.CertificatesV1Interface
	id nodeid.Key
}

func (c provingCertificates) CertificateSigningRequests() typedcertificatesv1.CertificateSigningRequestInterface {
	return provingRequests{CertificateSigningRequestInterface: c.CertificatesV1Interface.CertificateSigningRequests(), id: c.id}
}

type provingRequests struct {
	typedcertificatesv1.CertificateSigningRequestInterface
	id nodeid.Key
}

func (c provingRequests) Create(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, o metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	csr = csr.DeepCopy()
	if err := prove(csr, c.id); err != nil {
		return nil, err
	}
	return c.CertificateSigningRequestInterface.Create(ctx, csr, o)
}

// prove adds the annotations to a request.
func prove(csr *certificatesv1.CertificateSigningRequest, id nodeid.Key) error {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return errors.New("prove the node's identity: the certificate request is not in PEM")
	}
	key, proof, err := id.Sign(block.Bytes)
	if err != nil {
		return fmt.Errorf("prove the node's identity: %w", err)
	}
	metav1.SetMetaDataAnnotation(&csr.ObjectMeta, nodeid.KeyAnnotation, key)
	metav1.SetMetaDataAnnotation(&csr.ObjectMeta, nodeid.ProofAnnotation, proof)
	return nil
}
