package containerd

import (
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeHub is a real registry behind a door that asks for credentials.
type fakeHub struct {
	*httptest.Server

	mu       sync.Mutex
	password string
	requests []string
}

// newHub starts a registry; door decides who comes in, nil lets everybody in.
func newHub(t *testing.T, encrypted bool, door func(h *fakeHub, w http.ResponseWriter, r *http.Request) bool) *fakeHub {
	t.Helper()
	h := &fakeHub{password: "secret"}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.requests = append(h.requests, r.Method+" "+r.URL.String())
		h.mu.Unlock()
		if r.Header.Get("X-Test-Pusher") == "" && door != nil && !door(h, w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	})
	if encrypted {
		h.Server = httptest.NewUnstartedServer(handler)
		h.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
		h.Config.ErrorLog = log.New(io.Discard, "", 0)
		h.StartTLS()
	} else {
		h.Server = httptest.NewServer(handler)
	}
	t.Cleanup(h.Close)
	return h
}

func (h *fakeHub) host() string { return h.Listener.Addr().String() }

func (h *fakeHub) seen() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.requests, "\n")
}

func (h *fakeHub) user(r *http.Request) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	user, password, ok := r.BasicAuth()
	return ok && user == "edge" && password == h.password
}

// push stores an image, past the door.
func (h *fakeHub) push(t *testing.T, repo string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(h.host() + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, remote.WithTransport(pusher{h.Client().Transport})); err != nil {
		t.Fatal(err)
	}
}

type pusher struct{ next http.RoundTripper }

func (p pusher) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Test-Pusher", "1")
	return p.next.RoundTrip(r)
}

// basic asks for a user and password at every request.
func basic(h *fakeHub, w http.ResponseWriter, r *http.Request) bool {
	if h.user(r) {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
	http.Error(w, "who are you", http.StatusUnauthorized)
	return false
}

// bearer is the token protocol of Docker Hub: a token is for some repositories.
func bearer(h *fakeHub, w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path == "/token" {
		if r.Method != http.MethodGet { // as GCR does for the OAuth2 way
			http.NotFound(w, r)
			return false
		}
		token := "anonymous"
		if h.user(r) {
			token = "for " + strings.Join(r.URL.Query()["scope"], " ")
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
		return false
	}
	repo, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	repo, _, _ = strings.Cut(repo, "/blobs/")
	scope := "repository:" + repo + ":pull"
	// Clients ask for the scope they know, too: before a rewrite it is another.
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer for "); ok && strings.Contains(token, scope) {
		return true
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="hub",scope=%q`, h.host(), scope))
	http.Error(w, "who are you", http.StatusUnauthorized)
	return false
}

// pull asks the CRI service for an image, as the kubelet does.
func (n *node) pull(ref string, auth *runtimeapi.AuthConfig) error {
	_, err := n.images().PullImage(n.t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}, Auth: auth})
	return err
}

// TestInsideRegistries pulls through mirrors of every kind, changing
// registries.yaml under a running containerd.
func TestInsideRegistries(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	n.start()
	configure := func(yaml string) { writeFile(t, n.opts.RegistriesFile, []byte(yaml)) }
	// The file is read soon after it is written; until then pulls fail at once,
	// because there is no network.
	mustPull := func(t *testing.T, ref string) {
		t.Helper()
		n.eventually("pull of "+ref, func() bool { return n.pull(ref, nil) == nil }) // failures are in the log
		if n.image(ref) == nil {
			t.Errorf("%s is not there", ref)
		}
	}

	t.Run("mirror", func(t *testing.T) {
		hub := newHub(t, false, nil)
		hub.push(t, "library/plain:1", testImage(t, dir, "mirror"))
		configure(fmt.Sprintf("mirrors:\n  docker.io:\n    endpoint: [\"http://%s\"]\n", hub.host()))
		mustPull(t, "docker.io/library/plain:1")
		if !strings.Contains(hub.seen(), "ns=docker.io") {
			t.Errorf("the mirror is not told the registry:\n%s", hub.seen())
		}
		if strings.Contains(n.log(), "gateway") {
			t.Error("a gateway for nothing")
		}
	})
	t.Run("rewrite", func(t *testing.T) {
		hub := newHub(t, false, nil)
		hub.push(t, "hub/mirrored/app:1", testImage(t, dir, "rewrite"))
		configure(fmt.Sprintf("mirrors:\n  registry.test:\n    endpoint: [\"http://%s\"]\n    rewrite:\n      \"^apps/(.*)\": \"hub/mirrored/$1\"\n", hub.host()))
		mustPull(t, "registry.test/apps/app:1")
	})
	t.Run("wildcard", func(t *testing.T) {
		hub := newHub(t, false, nil)
		hub.push(t, "any/app:1", testImage(t, dir, "wildcard"))
		configure(fmt.Sprintf("mirrors:\n  \"*\":\n    endpoint: [\"http://%s\"]\nconfigs:\n  known.test:\n    tls: {insecure_skip_verify: true}\n", hub.host()))
		mustPull(t, "whatever.test/any/app:1")
		mustPull(t, "known.test/any/app:1")
	})
	for name, door := range map[string]func(*fakeHub, http.ResponseWriter, *http.Request) bool{"basic": basic, "bearer": bearer} {
		t.Run("auth "+name, func(t *testing.T) {
			hub := newHub(t, false, door)
			for tag, label := range map[string]string{"1": "one", "2": "two", "3": "three"} {
				hub.push(t, "private/app:"+tag, testImage(t, dir, name+label))
			}
			yaml := func(password string) string {
				return fmt.Sprintf("mirrors:\n  %[1]s.test:\n    endpoint: [\"http://%[2]s\"]\n    rewrite: {\"^team/\": \"private/\"}\nconfigs:\n  \"%[2]s\":\n    auth: {username: edge, password: %[3]s}\n", name, hub.host(), password)
			}
			configure(yaml("secret"))
			mustPull(t, name+".test/team/app:1")

			// The password changes, here and there.
			hub.mu.Lock()
			hub.password = "changed"
			hub.mu.Unlock()
			configure(yaml("changed"))
			mustPull(t, name+".test/team/app:2")

			// The node's password is wrong: the pod's own still works.
			configure(yaml("outdated"))
			n.eventually("old password", func() bool { return n.pull(name+".test/team/app:3", nil) != nil })
			if err := n.pull(name+".test/team/app:3", &runtimeapi.AuthConfig{Username: "edge", Password: "changed"}); err != nil {
				t.Errorf("pull with the pod's credentials: %v", err)
			}
			for _, text := range []string{n.log(), hub.seen()} {
				if strings.Contains(text, "secret") || strings.Contains(text, "changed\n") {
					t.Errorf("a password in a log:\n%s", text)
				}
			}
		})
	}
	t.Run("tls", func(t *testing.T) {
		hub := newHub(t, true, nil)
		hub.push(t, "app:1", testImage(t, dir, "tls"))
		ca := caFile(t, n, hub)
		configure(fmt.Sprintf("mirrors:\n  tls.test:\n    endpoint: [\"https://%[1]s\"]\nconfigs:\n  \"%[1]s\":\n    tls: {ca_file: %[2]s}\n", hub.host(), ca))
		mustPull(t, "tls.test/app:1")
	})
	t.Run("tls and auth", func(t *testing.T) {
		hub := newHub(t, true, basic)
		hub.push(t, "app:1", testImage(t, dir, "tls and auth"))
		ca := caFile(t, n, hub)
		// The registry itself, without a mirror.
		configure(fmt.Sprintf("configs:\n  \"%[1]s\":\n    auth: {username: edge, password: secret}\n    tls: {ca_file: %[2]s}\n", hub.host(), ca))
		mustPull(t, hub.host()+"/app:1")
	})
	t.Run("a wrong file changes nothing", func(t *testing.T) {
		hub := newHub(t, false, nil)
		hub.push(t, "app:1", testImage(t, dir, "kept"))
		configure(fmt.Sprintf("mirrors:\n  kept.test:\n    endpoint: [\"http://%s\"]\n", hub.host()))
		n.eventually("settings are used", func() bool {
			_, err := os.Stat(filepath.Join(n.opts.DataDir, "agent/etc/containerd/certs.d/kept.test/hosts.toml"))
			return err == nil
		})
		configure("mirors: {}\n")
		n.eventually("the error is in the log", func() bool { return strings.Contains(n.log(), `did you mean \"mirrors\"?`) })
		mustPull(t, "kept.test/app:1")
	})
	configure("")
	n.eventually("settings are removed", func() bool {
		left, err := filepath.Glob(filepath.Join(n.opts.DataDir, "agent/etc/containerd/certs.d/*"))
		return err == nil && len(left) == 0
	})
	n.stop(unix.SIGTERM)
}

func caFile(t *testing.T, n *node, hub *fakeHub) string {
	t.Helper()
	path := filepath.Join(n.opts.DataDir, strings.ReplaceAll(hub.host(), ":", "-")+".pem")
	writeFile(t, path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hub.Certificate().Raw}))
	return path
}

// TestInsideList pulls what a list file names, and pins it.
func TestInsideList(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	hub := newHub(t, false, nil)
	hub.push(t, "listed:1", testImage(t, dir, "listed"))
	writeFile(t, filepath.Join(n.opts.DataDir, "agent", "images", "list.txt"), []byte("# ours\n"+hub.host()+"/listed:1\n"))
	n.start()
	n.eventually("image of the list", func() bool { return n.image(hub.host() + "/listed:1").GetPinned() })
	n.stop(unix.SIGTERM)
}
