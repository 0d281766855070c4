package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// connectTimeout bounds everything up to the server's answer.
const connectTimeout = 20 * time.Second

// open connects to a server (HOST:PORT), asks for the tunnel and returns the
// connection and the server's identity.
func (t *Tunnel) open(ctx context.Context, server string) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	cfg, err := t.tlsConfig(server)
	if err != nil {
		return nil, "", err
	}
	// The pings of HTTP/2 keep the connection alive; the kernel's would be in addition.
	dialer := tls.Dialer{NetDialer: &net.Dialer{KeepAlive: -1}, Config: cfg}
	conn, err := dialer.DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, "", fmt.Errorf("connect: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	upgraded, id, err := upgrade(conn, server, t.connected())
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, "", fmt.Errorf("ask for the tunnel: %w", err)
	}
	return upgraded, id, nil
}

// tlsConfig reads the authority and the certificate anew for each connection,
// so that what was rotated is used.
func (t *Tunnel) tlsConfig(server string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	bundle, err := os.ReadFile(t.opts.ServerCA)
	if err != nil {
		return nil, fmt.Errorf("read the authority of the servers: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("read the authority of the servers: no certificate in %s", t.opts.ServerCA)
	}
	cert, err := tls.LoadX509KeyPair(t.opts.ClientCert, t.opts.ClientKey)
	if err != nil {
		return nil, fmt.Errorf("read the node's certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: pool,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"http/1.1"}, // only it can be upgraded
	}, nil
}

// upgrade exchanges the request and its answer.
func upgrade(conn net.Conn, server string, connected []string) (net.Conn, string, error) {
	head := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: limpet\r\nConnection: Upgrade\r\nUpgrade: %s\r\n", Path, server, Protocol)
	if len(connected) > 0 {
		head += ConnectedHeader + ": " + strings.Join(connected, ",") + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
		return nil, "", err
	}
	br := bufio.NewReader(&headLimit{r: conn, left: maxHead})
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close() // empty, if the protocol is switched
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // the status says enough if this fails
		return nil, "", &StatusError{Code: resp.StatusCode, Text: message(text)}
	}
	if got := resp.Header.Get("Upgrade"); got != Protocol {
		return nil, "", fmt.Errorf("the server speaks %q, not %q", got, Protocol)
	}
	// The server's first frames may have come with its answer.
	rest, err := br.Peek(br.Buffered())
	if err != nil {
		return nil, "", err
	}
	return &prefixed{Conn: conn, rest: append([]byte(nil), rest...)}, serverID(resp.Header), nil
}

// serverID is the server's identity as it may be sent in a header again.
func serverID(h http.Header) string {
	id := h.Get(ServerHeader)
	for _, c := range id {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return ""
		}
	}
	return id[:min(len(id), 64)]
}

// message is the text for a person in a refusal of the handler, which is plain,
// or of the API server's filters, which is a Status in JSON.
func message(body []byte) string {
	var status struct{ Message string }
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return status.Message
	}
	text := strings.TrimSpace(string(body))
	return text[:min(len(text), 512)]
}

// StatusError is a server's refusal.
type StatusError struct {
	Code int
	Text string
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("HTTP %d", e.Code)
	switch {
	case e.Text != "":
		s += ": " + e.Text
	case e.Code == http.StatusNotFound:
		s += ": no limpet server there, or one that does not have the tunnel"
	}
	return s
}

// maxHead bounds the answer's head, in bytes.
const maxHead = 64 << 10

var errHeadTooLong = errors.New("the answer's head is too long")

// headLimit ends the reading of an answer that has no end.
type headLimit struct {
	r    io.Reader
	left int
}

func (l *headLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errHeadTooLong
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

// prefixed reads rest first.
type prefixed struct {
	net.Conn
	rest []byte
}

func (c *prefixed) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		c.rest = c.rest[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
