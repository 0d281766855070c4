package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/noderecord"
)

// approvalPatience is after how long without a decision it is told.
const approvalPatience = 10 * time.Second

func userName(nodeName string) string { return "system:node:" + nodeName }

// keyPair is a certificate and its key, both PEM.
type keyPair struct{ cert, key []byte }

// request is a certificate request, made once and sent until it is decided.
type request struct {
	csr *certificatesv1.CertificateSigningRequest
	key []byte
}

// newRequest makes the request for the kubelet's client certificate, with the
// proof that it comes from the machine that has the identity key.
func newRequest(nodeName string, id nodeid.Key) (*request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key of node %s: %w", nodeName, err)
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: userName(nodeName), Organization: []string{"system:nodes"}}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request of node %s: %w", nodeName, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key of node %s: %w", nodeName, err)
	}
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "limpet-join-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}
	if err := prove(csr, id); err != nil {
		return nil, err
	}
	return &request{csr: csr, key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}, nil
}

// obtain sends the request and waits for the certificate.
func (j *joiner) obtain(ctx context.Context, l *link, r *request) (keyPair, error) {
	csrs := l.CertificatesV1().CertificateSigningRequests()
	created, err := csrs.Create(ctx, r.csr, metav1.CreateOptions{})
	if err != nil {
		return keyPair{}, j.answered(ctx, l, err)
	}
	patience := time.AfterFunc(approvalPatience, func() {
		j.log.Warn("waiting for the server to decide on this node's certificate request", "request", created.Name)
	})
	defer patience.Stop()
	selector := fields.OneTermEqualSelector("metadata.name", created.Name).String()
	for {
		// Without a resource version the watch begins with what is there.
		w, err := csrs.Watch(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			return keyPair{}, j.answered(ctx, l, err)
		}
		cert, err := j.await(ctx, w)
		w.Stop()
		if err != nil || cert != nil {
			return keyPair{cert: cert, key: r.key}, err
		}
	}
}

// await reads the events of a watch on one request. It returns neither a
// certificate nor an error when the watch has ended.
func (j *joiner) await(ctx context.Context, w watch.Interface) ([]byte, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil, nil
			}
			csr, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok || event.Type == watch.Deleted {
				return nil, &pending{stage: "request", err: errors.New("the certificate request was deleted before it was decided")}
			}
			if cert, err := decision(csr); err != nil || cert != nil {
				return cert, err
			}
		}
	}
}

// decision is what became of a request: a certificate, an *Error, or nothing yet.
func decision(csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied:
			code := Refused
			if c.Reason == noderecord.ReasonNameTaken {
				code = NameTaken
			}
			denied := refusal(code, "", "the server denies the node's certificate: %s", sentence(c.Message, c.Reason))
			denied.denied = true
			return nil, denied
		case certificatesv1.CertificateFailed:
			return nil, refusal(Refused, "The server's log tells more", "the server could not issue the node's certificate: %s", sentence(c.Message, c.Reason))
		}
	}
	if len(csr.Status.Certificate) == 0 {
		return nil, nil
	}
	return csr.Status.Certificate, nil
}

func sentence(message, reason string) string {
	if message == "" {
		return reason
	}
	return message
}
