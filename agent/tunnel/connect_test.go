package tunnel

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answered lets upgrade talk with a server that sends answer, whatever was asked.
func answered(t *testing.T, answer string, connected ...string) (conn net.Conn, id string, asked *http.Request, err error) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { _, _ = here.Close(), there.Close() })
	got := make(chan *http.Request, 1)
	go func() {
		r, err := http.ReadRequest(bufio.NewReader(there))
		if err != nil {
			t.Error(err)
		}
		got <- r
		_, _ = io.WriteString(there, answer)
		_ = there.Close()
	}()
	_ = here.SetDeadline(time.Now().Add(20 * time.Second))
	conn, id, err = upgrade(here, "10.0.0.1:6443", connected)
	return conn, id, <-got, err
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n"
	t.Run("accepted", func(t *testing.T) {
		t.Parallel()
		conn, id, asked, err := answered(t, head+"Limpet-Server: 0123abcd\r\n\r\nfirst frames", "aa", "bb")
		if err != nil || id != "0123abcd" {
			t.Fatalf("id %q, %v", id, err)
		}
		if all, err := io.ReadAll(conn); string(all) != "first frames" || err != nil {
			t.Errorf("read %q, %v", all, err)
		}
		if asked.URL.Path != Path || asked.Host != "10.0.0.1:6443" || asked.Header.Get("Upgrade") != Protocol || asked.Header.Get(ConnectedHeader) != "aa,bb" {
			t.Errorf("asked for %s of %s with %v", asked.URL, asked.Host, asked.Header)
		}
	})
	t.Run("an identity that cannot be repeated", func(t *testing.T) {
		t.Parallel()
		if _, id, _, err := answered(t, head+"Limpet-Server: a,b\r\n\r\n"); err != nil || id != "" {
			t.Errorf("id %q, %v", id, err)
		}
	})
	for name, test := range map[string]struct{ answer, want string }{
		"refused":          {"HTTP/1.1 403 Forbidden\r\nContent-Length: 21\r\n\r\ntunnels are for nodes", "HTTP 403: tunnels are for nodes"},
		"forbidden":        {"HTTP/1.1 403 Forbidden\r\nContent-Length: 36\r\n\r\n{\"kind\":\"Status\",\"message\":\"no, n2\"}", "HTTP 403: no, n2"},
		"not there":        {"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "does not have the tunnel"},
		"another protocol": {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", `speaks "websocket"`},
		"no HTTP":          {"SSH-2.0-OpenSSH_9.2\r\n", "malformed"},
		"endless head":     {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxHead), errHeadTooLong.Error()},
		"nothing":          {"", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, _, _, err := answered(t, test.answer); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want something with %q", err, test.want)
			}
		})
	}
	if !same(&StatusError{Code: http.StatusConflict}) || same(&StatusError{Code: 403}) || same(errors.New("x")) {
		t.Error("409 alone tells that the server is reached already")
	}
}
