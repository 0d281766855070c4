package standin

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const (
	// tokenLife is how long the kubelet uses a token if the real server refuses
	// to give one.
	tokenLife = 10 * time.Minute
	// tokenPeriod is the life that the kubelet is told. It asks anew at each
	// look at a pod's volumes when less than a fifth of it is left, so for these
	// tokens always: the real one comes as soon as a server is there.
	tokenPeriod = 24 * time.Hour
)

// answerToken answers the kubelet's request for a token of a service account
// with one that nobody accepts: volumes can be mounted with it and nothing
// else. Only the cluster's key can sign a real one.
//
// The answer to a request is always the same, so that the kubelet does not
// write it into the pod again and again. It has the shape of a JWT, because
// programs look into it, and says in its issuer what it is.
func answerToken(namespace, account string, tr *authenticationv1.TokenRequest, now time.Time) (*authenticationv1.TokenRequest, error) {
	if tr.Spec.BoundObjectRef == nil || tr.Spec.BoundObjectRef.Kind != "Pod" {
		return nil, apierrors.NewForbidden(authenticationv1.Resource("tokenrequests"), account, fmt.Errorf("a node may ask for tokens of its pods only"))
	}
	token, err := placeholder(map[string]any{
		"iss": "limpet-stand-in", "sub": "system:serviceaccount:" + namespace + ":" + account,
		"aud": tr.Spec.Audiences, "pod": tr.Spec.BoundObjectRef.Name,
		// Parsers that check it find a token that has ended.
		"exp": 0, "iat": 0,
	})
	if err != nil {
		return nil, err
	}
	out := tr.DeepCopy()
	out.Name, out.Namespace = account, namespace
	period := int64(tokenPeriod / time.Second)
	out.Spec.ExpirationSeconds = &period
	out.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(now.Add(tokenLife))}
	return out, nil
}

func placeholder(claims map[string]any) (string, error) {
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	// No key signs it: the digest takes the place of a signature.
	digest := sha256.Sum256(body)
	parts := [][]byte{[]byte(`{"alg":"none","typ":"JWT"}`), body, digest[:]}
	text := make([]string, len(parts))
	for i, p := range parts {
		text[i] = base64.RawURLEncoding.EncodeToString(p)
	}
	return strings.Join(text, "."), nil
}

// serveToken handles POST …/serviceaccounts/NAME/token.
func (h *handler) serveToken(w http.ResponseWriter, req *http.Request, namespace, account string) {
	body, err := readBody(w, req)
	if err != nil {
		h.fail(w, req, err)
		return
	}
	obj, _, err := h.codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		h.fail(w, req, apierrors.NewBadRequest(err.Error()))
		return
	}
	tr, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		h.fail(w, req, apierrors.NewBadRequest(fmt.Sprintf("a TokenRequest is expected, not a %T", obj)))
		return
	}
	answer, err := answerToken(namespace, account, tr, time.Now())
	if err != nil {
		h.fail(w, req, err)
		return
	}
	h.write(w, req, http.StatusCreated, answer)
}

// write renders an object in the format that the client asks for.
func (h *handler) write(w http.ResponseWriter, req *http.Request, code int, obj runtime.Object) {
	gvks, _, err := h.scheme.ObjectKinds(obj)
	if err != nil {
		h.fail(w, req, err)
		return
	}
	writeNegotiated(h.codecs, gvks[0].GroupVersion(), w, req, code, obj)
}
