package join

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	joincfg "github.com/limpetio/limpet/internal/join"
)

// maxMinorsBehind is how far a kubelet may be behind its API server; see
// https://kubernetes.io/releases/version-skew-policy/.
const maxMinorsBehind = 3

// link is a way to a server that has been verified.
type link struct {
	kubernetes.Interface              // with the bootstrap token
	anonymous            *http.Client // without
}

// connect makes a link that trusts one authority.
func (j *joiner) connect(root *x509.Certificate) (*link, error) {
	cfg := &rest.Config{
		Host: j.base, UserAgent: userAgent,
		TLSClientConfig: rest.TLSClientConfig{CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw})},
		// The node's own connections, through the load balancer, go by no proxy either.
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}
	anonymous, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", j.base, err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.BearerToken = j.token.Bootstrap()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", j.base, err)
	}
	return &link{Interface: client, anonymous: anonymous}, nil
}

// fetchSettings reads the cluster's settings with the bootstrap token.
func (j *joiner) fetchSettings(ctx context.Context, l *link) (joincfg.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	cm, err := l.CoreV1().ConfigMaps(joincfg.Namespace).Get(ctx, joincfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return joincfg.Config{}, &pending{stage: "settings", err: errors.New("the server has not published the settings for joining yet")}
	}
	if err != nil {
		return joincfg.Config{}, j.answered(ctx, l, err)
	}
	c, err := joincfg.Parse([]byte(cm.Data[joincfg.Key]))
	if v := (*joincfg.VersionError)(nil); errors.As(err, &v) {
		return c, &Error{Code: Refused, Err: err, What: "the server's settings for joining cannot be read", Do: "Use the same version of limpet on this machine as on the server"}
	}
	if err != nil {
		return c, &Error{Code: Refused, Err: err, What: "the server's settings for joining are damaged", Do: "Restarting the server writes them anew"}
	}
	return c, checkSkew(j.version, c)
}

// answered judges the error of a request with the bootstrap token.
func (j *joiner) answered(ctx context.Context, l *link, err error) error {
	switch {
	case apierrors.IsUnauthorized(err):
		return j.tokenState(ctx, l)
	case apierrors.IsForbidden(err):
		final := &Error{Code: Refused, Err: err, What: "the server accepts the token, but not for joining", Do: "Make a token with `limpet token create` on the server"}
		return &pending{stage: "permission", err: err, final: final}
	case apierrors.ReasonForError(err) != metav1.StatusReasonUnknown:
		return &pending{stage: "start", err: err}
	}
	return j.connection(err)
}

// checkSkew refuses versions that Kubernetes does not support together.
func checkSkew(own string, c joincfg.Config) error {
	node, err := version.ParseSemantic(own)
	if err != nil {
		return fmt.Errorf("own Kubernetes version: %w", err)
	}
	api, err := version.ParseSemantic(c.KubernetesVersion)
	if err != nil {
		return fmt.Errorf("the server's Kubernetes version: %w", err)
	}
	switch {
	case node.Major() != api.Major() || node.Minor() > api.Minor():
		return refusal(Refused, "Update the server first, then its agents", "this node would be newer than its server: Kubernetes %s joins %s", own, c.KubernetesVersion)
	case api.Minor()-node.Minor() > maxMinorsBehind:
		return refusal(Refused, fmt.Sprintf("Update limpet on this machine to %s", c.LimpetVersion),
			"this node is too old for its server: Kubernetes %s joins %s, and a node may be %d minor versions behind", own, c.KubernetesVersion, maxMinorsBehind)
	}
	return nil
}

// isAPIStatus reports whether an answer is that of a Kubernetes API server.
func isAPIStatus(body []byte) bool {
	var s metav1.TypeMeta
	return json.Unmarshal(body, &s) == nil && s.Kind == "Status"
}
