package registries

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestSplitPath(t *testing.T) {
	t.Parallel()
	for path, want := range map[string][3]string{
		"/id/v2/a/manifests/1":           {"id", "a", "manifests/1"},
		"/id/v2/a/b/c/blobs/sha256:ab":   {"id", "a/b/c", "blobs/sha256:ab"},
		"/id/v2/blobs/manifests/blobs/x": {"id", "blobs/manifests", "blobs/x"},
		"/id/v2/a/referrers/sha256:ab":   {"id", "a", "referrers/sha256:ab"},
		"/id/v2/":                        {},
		"/id/v2/manifests/1":             {},
		"/id/a/manifests/1":              {},
		"/x/y/v2/a/manifests/1":          {},
	} {
		id, repo, rest, ok := splitPath(path)
		if got := [3]string{id, repo, rest}; got != want || ok != (want[0] != "") {
			t.Errorf("%s: got %q, %v", path, got, ok)
		}
	}
}

// start runs a gateway with one route to the handler.
func start(t *testing.T, handler http.HandlerFunc, change func(*route)) gatewayAddress {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	endpoint, err := url.Parse(server.URL + "/v2")
	if err != nil {
		t.Fatal(err)
	}
	r := route{endpoint: endpoint}
	if change != nil {
		change(&r)
	}
	g := newGateway(slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = g.close() })
	addr, err := g.use(map[string]route{"id": r})
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func get(t *testing.T, method, url string, header http.Header) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil { // net/http may break the connection before the first byte
		return 0, "broken: " + err.Error(), nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, "broken: " + err.Error(), resp.Header
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestGatewayIsClosedToStrangers(t *testing.T) {
	t.Parallel()
	addr := start(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "private") }, nil)
	if code, _, _ := get(t, "GET", addr.url+"/id/v2/a/manifests/1", http.Header{keyHeader: {"guess"}}); code != http.StatusForbidden {
		t.Errorf("with a wrong key: %d", code)
	}
	key := http.Header{keyHeader: {addr.key}}
	if code, body, _ := get(t, "GET", addr.url+"/id/v2/a/manifests/1", key); code != 200 || body != "private" {
		t.Errorf("with the key: %d %s", code, body)
	}
	if code, _, _ := get(t, "GET", addr.url+"/other/v2/a/manifests/1", key); code != http.StatusNotFound {
		t.Errorf("another route: %d", code)
	}
	if code, _, _ := get(t, "POST", addr.url+"/id/v2/a/blobs/uploads", key); code != http.StatusMethodNotAllowed {
		t.Errorf("a push: %d", code)
	}
}

func TestGatewayPassesOn(t *testing.T) {
	t.Parallel()
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get(keyHeader) != "" {
			t.Error("the storage behind a redirect gets credentials")
		}
		_, _ = io.WriteString(w, "blob "+r.Header.Get("Range"))
	}))
	t.Cleanup(storage.Close)
	addr := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get(keyHeader) != "":
			t.Error("the endpoint gets the key")
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, strings.Replace(storage.URL, "127.0.0.1", "localhost", 1)+"/x", http.StatusTemporaryRedirect)
		case strings.HasSuffix(r.URL.Path, "/cut"):
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "only this")
		default:
			w.Header().Set("Docker-Content-Digest", "sha256:ab")
			_, _ = io.WriteString(w, r.Method+" "+r.URL.String()+" "+r.Header.Get("Accept"))
		}
	}, func(r *route) { r.host.Auth = Auth{Username: "u", Password: "p"} })
	header := http.Header{keyHeader: {addr.key}, "Accept": {"manifest"}, "Range": {"bytes=1-2"}, "Authorization": {"Bearer own"}}
	code, body, h := get(t, "GET", addr.url+"/id/v2/a/b/manifests/1?ns=docker.io", header)
	if code != 200 || body != "GET /v2/a/b/manifests/1?ns=docker.io manifest" || h.Get("Docker-Content-Digest") != "sha256:ab" {
		t.Errorf("manifest: %d %s %v", code, body, h)
	}
	if code, _, h := get(t, "HEAD", addr.url+"/id/v2/a/manifests/1", header); code != 200 || h.Get("Docker-Content-Digest") == "" {
		t.Errorf("HEAD: %d %v", code, h)
	}
	if code, body, _ := get(t, "GET", addr.url+"/id/v2/a/blobs/x", header); code != 200 || body != "blob bytes=1-2" {
		t.Errorf("blob: %d %s", code, body)
	}
	if _, body, _ := get(t, "GET", addr.url+"/id/v2/a/manifests/cut", header); !strings.HasPrefix(body, "broken") {
		t.Errorf("a body that was cut off looks complete: %s", body)
	}
}

// TestGatewayRefused: when the node's credentials are refused, the client sees
// the question that the registry asks, so that it can show its own.
func TestGatewayRefused(t *testing.T) {
	t.Parallel()
	addr := start(t, func(w http.ResponseWriter, r *http.Request) {
		user, _, ok := r.BasicAuth()
		switch {
		case !ok:
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case user == "node":
			w.WriteHeader(http.StatusForbidden)
		default:
			_, _ = io.WriteString(w, "for "+user)
		}
	}, func(r *route) { r.host.Auth = Auth{Username: "node", Password: "p"} })
	key := http.Header{keyHeader: {addr.key}}
	code, _, h := get(t, "GET", addr.url+"/id/v2/a/manifests/1", key)
	if code != http.StatusUnauthorized || !strings.HasPrefix(h.Get("WWW-Authenticate"), "Basic") {
		t.Errorf("got %d %v", code, h)
	}
	key.Set("Authorization", "Basic cG9kOnA=") // pod:p
	if code, body, _ := get(t, "GET", addr.url+"/id/v2/a/manifests/1", key); code != 200 || body != "for pod" {
		t.Errorf("the pod's own: %d %s", code, body)
	}
}
