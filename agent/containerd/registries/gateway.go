package registries

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

const (
	// keyHeader proves that a request comes from someone who can read
	// containerd's files: the gateway has credentials, and any process of this
	// machine can connect to it.
	keyHeader = "X-Limpet-Gateway-Key"

	idleTimeout           = 30 * time.Second
	responseHeaderTimeout = time.Minute
	// authAttempts of a request: without credentials, with a token, with a
	// token that was refreshed.
	authAttempts = 3
)

// gateway is the proxy through which containerd reaches endpoints that need
// credentials or a rewrite of the repository's name. Upstream containerd has no
// rewrites, and reads credentials only at its start.
//
// The node's credentials come first; where a registry refuses them, containerd
// sees the refusal and tries those of the pod's imagePullSecrets, which are
// passed on as they are.
type gateway struct {
	log *slog.Logger
	key string

	mu       sync.RWMutex
	routes   map[string]*upstream
	listener net.Listener // nil until a route exists
	server   *http.Server
}

// upstream is a route with what it needs to be used.
type upstream struct {
	route
	client *http.Client
	auth   docker.Authorizer
}

func newGateway(log *slog.Logger) *gateway {
	return &gateway{log: log, key: rand.Text(), routes: map[string]*upstream{}}
}

// use replaces the routes and returns the gateway's address. It begins to listen
// when there is a route for the first time.
func (g *gateway) use(routes map[string]route) (gatewayAddress, error) {
	next := make(map[string]*upstream, len(routes))
	for id, r := range routes {
		u, err := newUpstream(r)
		if err != nil {
			return gatewayAddress{}, err
		}
		next[id] = u
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(next) > 0 && g.listener == nil {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return gatewayAddress{}, fmt.Errorf("registry gateway: %w", err)
		}
		g.listener = l
		g.server = &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: idleTimeout}
		go func() {
			if err := g.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				g.log.Error("registry gateway ended", "error", err)
			}
		}()
	}
	for _, old := range g.routes {
		old.client.CloseIdleConnections()
	}
	g.routes = next
	if g.listener == nil {
		return gatewayAddress{}, nil
	}
	return gatewayAddress{url: "http://" + g.listener.Addr().String(), key: g.key}, nil
}

func (g *gateway) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.server == nil {
		return nil
	}
	return g.server.Close()
}

func newUpstream(r route) (*upstream, error) {
	config, err := r.host.TLS.clientConfig()
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", r.endpoint.Host, err)
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: responseHeaderTimeout,
		IdleConnTimeout:       idleTimeout,
		DisableCompression:    true, // bytes are passed on as they come
		ForceAttemptHTTP2:     true,
	}
	client := &http.Client{Transport: transport}
	credentials := func(host string) (string, string, error) {
		if host != r.endpoint.Host {
			return "", "", nil
		}
		if r.host.Auth.IdentityToken != "" {
			return "", r.host.Auth.IdentityToken, nil
		}
		return r.host.Auth.Username, r.host.Auth.Password, nil
	}
	return &upstream{route: r, client: client, auth: docker.NewDockerAuthorizer(
		docker.WithAuthClient(client), docker.WithAuthCreds(credentials))}, nil
}

func (t TLS) clientConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.InsecureSkipVerify} //nolint:gosec // as asked for
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("system certificates: %w", err)
		}
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s has no certificate in it", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// ServeHTTP passes on GET and HEAD of /<route>/v2/<repository>/<kind>/<reference>.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(keyHeader)), []byte(g.key)) != 1 {
		http.Error(w, "not for you", http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "only pulls go through here", http.StatusMethodNotAllowed)
		return
	}
	id, repo, rest, ok := splitPath(r.URL.Path)
	g.mu.RLock()
	u := g.routes[id]
	g.mu.RUnlock()
	if !ok || u == nil {
		http.NotFound(w, r)
		return
	}
	resp, err := u.pass(r, rewrite(u.rewrites, repo), rest)
	if err != nil {
		g.log.Debug("registry gateway", "endpoint", u.endpoint.Host, "error", err)
		http.Error(w, fmt.Sprintf("registry %s: %v", u.endpoint.Host, err), http.StatusBadGateway)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	for name, values := range resp.Header {
		if !slices.Contains(hopByHop, name) {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(resp.StatusCode)
	if r.Method == http.MethodGet {
		if _, err := io.Copy(w, resp.Body); err != nil {
			panic(http.ErrAbortHandler) // net/http's way to break the connection: the body is not complete
		}
	}
}

// hopByHop headers are between two neighbours (RFC 9110 section 7.6.1).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// splitPath takes /<route>/v2/<repository>/<kind>/<reference> apart; rest is
// <kind>/<reference>. A repository may contain slashes.
func splitPath(p string) (id, repo, rest string, ok bool) {
	id, p, ok = strings.Cut(strings.TrimPrefix(p, "/"), "/v2/")
	if !ok || strings.Contains(id, "/") {
		return "", "", "", false
	}
	last := 0
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		last = max(last, strings.LastIndex(p, kind))
	}
	if last == 0 {
		return "", "", "", false
	}
	return id, p[:last], p[last+1:], true
}

// target is the URL of a request at the endpoint.
func (u *upstream) target(repo, rest string, query url.Values) *url.URL {
	t := *u.endpoint
	t.Path = path.Join("/", t.Path, repo, rest)
	if u.origin {
		query.Del("ns")
	}
	t.RawQuery = query.Encode()
	return &t
}

// pass sends a request of containerd's to the endpoint, following redirects,
// which may lead to storage that containerd could not reach by itself.
func (u *upstream) pass(in *http.Request, repo, rest string) (*http.Response, error) {
	target := u.target(repo, rest, in.URL.Query())
	if own := in.Header.Get("Authorization"); own != "" {
		return u.send(in, target, own)
	}
	ctx := docker.WithScope(in.Context(), "repository:"+repo+":pull")
	var responses []*http.Response
	for attempt := 1; ; attempt++ {
		authorization, err := u.authorization(ctx, target)
		if err != nil {
			return nil, err
		}
		resp, err := u.send(in, target, authorization)
		if err != nil {
			return nil, err
		}
		switch {
		case resp.StatusCode == http.StatusUnauthorized && attempt < authAttempts:
			responses = append(responses, resp)
			if err := u.auth.AddResponses(ctx, responses); err != nil {
				return resp, nil //nolint:nilerr // containerd may have the pod's credentials
			}
			_ = resp.Body.Close()
		case resp.StatusCode == http.StatusForbidden && authorization != "":
			return u.challenge(in, target, resp)
		default:
			return resp, nil
		}
	}
}

// challenge turns the refusal of the node's credentials into the endpoint's
// question for others, if it asks one.
func (u *upstream) challenge(in *http.Request, target *url.URL, refused *http.Response) (*http.Response, error) {
	resp, err := u.send(in, target, "")
	if err != nil {
		return refused, nil //nolint:nilerr // the refusal is the answer
	}
	if resp.StatusCode != http.StatusUnauthorized {
		_ = resp.Body.Close()
		return refused, nil
	}
	_ = refused.Body.Close()
	return resp, nil
}

// authorization is what the node has to show at the endpoint by now; "" before
// it was asked.
func (u *upstream) authorization(ctx context.Context, target *url.URL) (string, error) {
	probe := &http.Request{URL: target, Header: http.Header{}}
	if err := u.auth.Authorize(ctx, probe); err != nil {
		return "", err
	}
	return probe.Header.Get("Authorization"), nil
}

func (u *upstream) send(in *http.Request, target *url.URL, authorization string) (*http.Response, error) {
	out, err := http.NewRequestWithContext(in.Context(), in.Method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range in.Header {
		if !slices.Contains(hopByHop, name) && name != keyHeader {
			out.Header[name] = values
		}
	}
	out.Header.Del("Authorization")
	if authorization != "" {
		out.Header.Set("Authorization", authorization)
	}
	return u.client.Do(out)
}
