package join

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/limpetio/limpet/internal/token"
)

// How often tokens are checked for all bearers together: a person who mistyped
// asks once. Guessing sixteen characters is hopeless at any rate; this keeps the
// attempts from costing the box anything.
const (
	checksPerSecond = 2
	checkBurst      = 20
)

// maxToken bounds the body of a check: a short token has 23 bytes.
const maxToken = 256

// caCerts serves the authorities of the server, once ready says that a joining
// machine finds all that it needs.
func caCerts(bundle []byte, ready func() bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			refuseMethod(w, "GET, HEAD")
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		if !ready() {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the server is starting", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/x-pem-file")
		w.Header().Set("Content-Length", strconv.Itoa(len(bundle)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(bundle) // the client is gone, then
		}
	})
}

// tokenCheck answers CheckPath from what judge says of a token.
func tokenCheck(judge func(token.Token, time.Time) Verdict) http.Handler {
	limit := rate.NewLimiter(checksPerSecond, checkBurst)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			refuseMethod(w, "POST")
			return
		}
		if !limit.Allow() {
			w.Header().Set("Retry-After", "5")
			http.Error(w, "too many tokens are being checked", http.StatusTooManyRequests)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxToken))
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			http.Error(w, "a token is shorter", http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			http.Error(w, "the token did not arrive", http.StatusBadRequest)
			return
		}
		t, err := token.Parse(string(body))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(judge(t, time.Now())) // the client is gone, then
	})
}

func refuseMethod(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	http.Error(w, "this path takes "+allowed, http.StatusMethodNotAllowed)
}
