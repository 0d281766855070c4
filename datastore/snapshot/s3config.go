package snapshot

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const redacted = "[redacted]"

// Secret is a string that is not printed, however it is tried: by any verb of
// fmt, as JSON or YAML, or by slog.
type Secret string

// Format is fmt.Formatter's.
func (s Secret) Format(f fmt.State, _ rune) {
	if s != "" {
		_, _ = io.WriteString(f, redacted)
	}
}

// MarshalText is encoding.TextMarshaler's, which JSON, YAML and slog use.
func (s Secret) MarshalText() ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	return []byte(redacted), nil
}

// UnmarshalText takes the text as it is.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = Secret(text)
	return nil
}

// S3Config says where a bucket is. The fields are k3s's --etcd-s3-… options.
type S3Config struct {
	Endpoint string // host or host:port; s3.amazonaws.com if empty
	// EndpointCA is the authority that signed the endpoint's certificate, if
	// it is not one of the system's: a file, or PEM, or PEM in base64.
	EndpointCA string
	SkipVerify bool // do not check the endpoint's certificate
	// AccessKey and SecretKey; without both, the machine's role in the cloud.
	AccessKey    Secret
	SecretKey    Secret
	SessionToken Secret
	Bucket       string
	Region       string // us-east-1 if empty
	Folder       string // in the bucket; give each cluster its own
	Insecure     bool   // HTTP
	// Timeout bounds each operation: 5 minutes if 0.
	Timeout time.Duration
	// BucketLookup is where the bucket's name stands in requests: "dns" (in
	// the host name), "path", or "auto", which is the default.
	BucketLookup string
}

const defaultS3Timeout = 5 * time.Minute

// String says where the bucket is.
func (c S3Config) String() string {
	return "s3://" + path.Join(c.Bucket, c.Folder) + " at " + c.Endpoint
}

func (c S3Config) complete() (S3Config, error) {
	if c.Endpoint == "" {
		c.Endpoint = "s3.amazonaws.com"
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.Timeout == 0 {
		c.Timeout = defaultS3Timeout
	}
	c.Folder = strings.Trim(c.Folder, "/")
	switch {
	case strings.ContainsAny(c.Endpoint, "/@?#"):
		return c, errors.New("the endpoint must be HOST or HOST:PORT, without scheme, user or path") // not repeated: it may hold a password
	case c.Bucket == "":
		return c, errors.New("there is no name of a bucket")
	case (c.AccessKey == "") != (c.SecretKey == ""):
		return c, errors.New("access key and secret key must be given both, or neither")
	case c.Timeout < 0:
		return c, fmt.Errorf("the timeout %s is negative", c.Timeout)
	case c.Folder != "" && path.Clean("/"+c.Folder) != "/"+c.Folder:
		return c, fmt.Errorf("the folder %q has empty parts, . or .. in it", c.Folder)
	}
	return c, nil
}

func (c S3Config) client() (*minio.Client, error) {
	lookup, ok := map[string]minio.BucketLookupType{
		"": minio.BucketLookupAuto, "auto": minio.BucketLookupAuto, "dns": minio.BucketLookupDNS, "path": minio.BucketLookupPath,
	}[c.BucketLookup]
	if !ok {
		return nil, fmt.Errorf("the bucket lookup is %q, not auto, dns or path", c.BucketLookup)
	}
	transport, err := c.transport()
	if err != nil {
		return nil, err
	}
	creds := credentials.NewIAM("")
	if c.AccessKey != "" {
		creds = credentials.NewStaticV4(string(c.AccessKey), string(c.SecretKey), string(c.SessionToken))
	}
	return minio.New(c.Endpoint, &minio.Options{
		Creds: creds, Secure: !c.Insecure, Region: c.Region, BucketLookup: lookup, Transport: transport,
		MaxRetries: 3, // within Timeout; the schedule comes again anyway
	})
}

func (c S3Config) transport() (http.RoundTripper, error) {
	t, err := minio.DefaultTransport(!c.Insecure)
	if err != nil || c.Insecure {
		return t, err
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.MinVersion = tls.VersionTLS12
	t.TLSClientConfig.InsecureSkipVerify = c.SkipVerify
	if c.EndpointCA == "" {
		return t, nil
	}
	pem, err := readCA(c.EndpointCA)
	if err != nil {
		return nil, err
	}
	// Only this authority: who names one does not trust all the others.
	t.TLSClientConfig.RootCAs = x509.NewCertPool()
	if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("there is no certificate in the endpoint's CA")
	}
	return t, nil
}

func readCA(ca string) ([]byte, error) {
	if strings.Contains(ca, "-----BEGIN") {
		return []byte(ca), nil
	}
	if pem, err := base64.StdEncoding.DecodeString(strings.TrimSpace(ca)); err == nil && strings.Contains(string(pem), "-----BEGIN") {
		return pem, nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("read the endpoint's CA: %w", err)
	}
	return pem, nil
}

// withoutSecrets removes the secrets from the text of an error. Neither the
// client nor servers are known to put them there, but servers answer what they
// like, and errors end up in logs and events.
func (c S3Config) withoutSecrets(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, s := range []Secret{c.SecretKey, c.SessionToken, c.AccessKey} {
		if s != "" {
			text = strings.ReplaceAll(text, string(s), redacted)
		}
	}
	if text == err.Error() {
		return err
	}
	return scrubbed{text, err}
}

// scrubbed has another text than its cause, which only errors.Is sees: As would
// hand out the text.
type scrubbed struct {
	text  string
	cause error
}

func (e scrubbed) Error() string        { return e.text }
func (e scrubbed) Is(target error) bool { return errors.Is(e.cause, target) }
