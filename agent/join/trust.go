package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/limpetio/limpet/internal/token"
)

// maxBundle bounds what a server that nobody trusts yet may send: a bundle is
// a few KiB.
const maxBundle = 64 << 10

// fetchCA asks for the cluster's authorities without trusting the answer.
func (j *joiner) fetchCA(ctx context.Context) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	transport := &http.Transport{
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, //nolint:gosec // the token's hash decides
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: 16 << 10,
		TLSHandshakeTimeout:    requestTimeout,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.base+"/cacerts", nil)
	if err != nil {
		return nil, fmt.Errorf("ask for the authority: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, j.connection(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBundle+1))
	if err != nil {
		return nil, j.connection(err)
	}
	bundle := parseBundle(body)
	if resp.StatusCode == http.StatusOK && len(body) <= maxBundle && len(bundle) > 0 {
		return bundle, nil
	}
	return nil, j.noBundle(resp.StatusCode, body)
}

// noBundle judges an answer that is not a bundle. A server that starts refuses
// for a moment what it will answer; anything else will not change.
func (j *joiner) noBundle(code int, body []byte) error {
	wrong := refusal(NoServer, "Check --server: it is the URL of the machine that runs `limpet server`, with port 6443 unless it was given another",
		"what answers at %s is no limpet server (it answered %d to a request for /cacerts)", j.base, code)
	if code >= 500 || code == http.StatusTooManyRequests {
		return &pending{stage: "start", err: fmt.Errorf("the server is not ready (HTTP %d)", code)}
	}
	if isAPIStatus(body) {
		return &pending{stage: "start", err: fmt.Errorf("the server does not show its authority yet (HTTP %d)", code), final: wrong}
	}
	return wrong
}

// trust decides which of the authorities, that anybody may have sent, is
// believed: the one whose hash is in the token and no other.
func (j *joiner) trust(bundle []*x509.Certificate) (*x509.Certificate, error) {
	if j.token.Pinned() {
		ca := j.token.Find(bundle)
		if ca == nil {
			return nil, refusal(WrongCA, "Take the token anew from that server (`limpet token create`), or correct --server; if both are right, somebody is between this machine and the server",
				"the server at %s belongs to another cluster than the token: the hash of its authority is not the one in the token", j.base)
		}
		return ca, nil
	}
	root := token.Root(bundle)
	j.log.Warn("the token is of the short form and cannot tell whether this is the right server: its authority is trusted on first use; a full token prevents that",
		"server", j.base, "authority_sha256", token.HashCA(root.Raw).String())
	return root, nil
}

// connection judges an error of a request: an *Error if the server will never
// be the right one, else a pending.
func (j *joiner) connection(err error) error {
	var (
		invalid  x509.CertificateInvalidError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		record   tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return refusal(WrongClock, "Set the clock (timedatectl, or the time server's settings); if it is right, the certificate has to be renewed on the server",
			"the certificate of the server at %s is valid from %s to %s, but this machine's clock says %s", j.base,
			day(invalid.Cert.NotBefore), day(invalid.Cert.NotAfter), day(j.now()))
	case errors.As(err, &unknown), errors.As(err, &invalid):
		return &Error{Code: ForeignCert, Err: err,
			What: fmt.Sprintf("the certificate of the server at %s was not issued by the cluster's authority", j.base),
			Do:   "Something between this machine and the server ends its TLS connections, or the URL leads elsewhere: --server has to reach the server itself"}
	case errors.As(err, &hostname):
		return &Error{Code: NoServer, Err: err,
			What: fmt.Sprintf("the certificate of the server at %s does not hold that name", j.base),
			Do:   "Use one of the server's own names or addresses in --server, or start the server with --tls-san and this one"}
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		return refusal(NoServer, "Check host and port of --server; a limpet server listens on port 6443 unless it was given another",
			"what answers at %s does not speak TLS", j.base)
	}
	return &pending{stage: "connect", err: err}
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// parseBundle returns the certificates of a PEM bundle; nil if there is
// anything that is not one.
func parseBundle(data []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return out
		}
		if block.Type != "CERTIFICATE" {
			return nil
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		out = append(out, cert)
	}
}
