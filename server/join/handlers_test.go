package join

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/token"
)

func TestCACerts(t *testing.T) {
	t.Parallel()
	ready := false
	server := httptest.NewTLSServer(caCerts([]byte("PEM"), func() bool { return ready }))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}} //nolint:gosec // as who joins
	ask := func(method string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+CACertsPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	if resp, _ := ask(http.MethodGet); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("before a token can be used: %s", resp.Status)
	}
	ready = true
	if resp, body := ask(http.MethodGet); resp.StatusCode != http.StatusOK || body != "PEM" {
		t.Errorf("GET: %s, %q", resp.Status, body)
	}
	if resp, body := ask(http.MethodHead); resp.StatusCode != http.StatusOK || body != "" || resp.ContentLength != 3 {
		t.Errorf("HEAD: %s, %q, length %d", resp.Status, body, resp.ContentLength)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		if resp, _ := ask(method); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
}

func TestTokenCheck(t *testing.T) {
	t.Parallel()
	expired := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	var asked []string
	server := httptest.NewServer(tokenCheck(func(bearer token.Token, _ time.Time) Verdict {
		asked = append(asked, bearer.Bootstrap())
		return Verdict{State: Expired, Expired: &expired}
	}))
	defer server.Close()
	post := func(body string) (int, string) {
		t.Helper()
		resp, err := http.Post(server.URL+CheckPath, "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(answer)
	}
	const bearer = "abcdef.0123456789abcdef"
	code, answer := post(bearer)
	var verdict Verdict
	if err := json.Unmarshal([]byte(answer), &verdict); code != http.StatusOK || err != nil || verdict.State != Expired || !verdict.Expired.Equal(expired) {
		t.Errorf("answer %d %q: %v", code, answer, err)
	}
	if len(asked) != 1 || asked[0] != bearer {
		t.Errorf("judged %q", asked)
	}
	for body, want := range map[string]int{
		"":                         http.StatusBadRequest,
		"abcdef.0123456789ABCDEF":  http.StatusBadRequest,
		strings.Repeat("a", 1<<20): http.StatusRequestEntityTooLarge,
	} {
		if code, answer := post(body); code != want || strings.Contains(answer, "0123456789") {
			t.Errorf("%.30q: %d %q, want %d", body, code, answer, want)
		}
	}
	limited := false
	for range checkBurst + 5 {
		code, _ := post(bearer)
		limited = limited || code == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("nothing limits guessing")
	}
	resp, err := http.Get(server.URL + CheckPath)
	if err != nil {
		t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", resp.Status)
	}
}
