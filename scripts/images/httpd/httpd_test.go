package main

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHandlers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newApp(config{pod: "p1", host: "h1", version: "2"}, time.Now).handler()
	for _, c := range []struct {
		target, body string
		status       int
		want         string
	}{
		{"/", "", 200, "pod=p1\nhost=h1\nversion=2\n"},
		{"/version", "", 200, "2\n"},
		{"/healthz", "", 200, "ok\n"},
		{"/readyz", "", 200, "ok\n"},
		{"/nowhere", "", 404, ""},
		{"/env?k=PATH", "", 200, os.Getenv("PATH") + "\n"},
		{"/env?k=LIMPET_SURELY_UNSET", "", 404, ""},
		{"/file?p=" + path, "", 200, "content"},
		{"/file?p=" + filepath.Dir(path), "", 404, ""},
		{"/file?p=/does/not/exist", "", 404, ""},
		{"/echo", "say this", 200, "say this"},
		{"/clientip", "", 200, "192.0.2.1\n"}, // httptest's address
		{"/sleep?ms=1", "", 200, "slept 1ms\n"},
		{"/sleep?ms=60001", "", 400, ""},
		{"/burn?ms=1&n=2", "", 200, ""},
		{"/burn?n=65", "", 400, ""},
		{"/burn?ms=x", "", 400, ""},
		{"/alloc?mb=2", "", 200, "holding 2 MiB\n"},
		{"/alloc?mb=1", "", 200, "holding 3 MiB\n"},
		{"/free", "", 200, "holding 0 MiB\n"},
		{"/alloc?mb=-1", "", 400, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, c.target, strings.NewReader(c.body)))
		if w.Code != c.status || c.want != "" && w.Body.String() != c.want {
			t.Errorf("%s: %d %q, want %d %q", c.target, w.Code, w.Body, c.status, c.want)
		}
	}
}

func TestReadinessIsDelayed(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	a := newApp(config{readyDelay: 5 * time.Second}, func() time.Time { return now })
	status := func() int {
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code
	}
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("at the start: %d", got)
	}
	now = now.Add(5 * time.Second)
	if got := status(); got != http.StatusOK {
		t.Errorf("after the delay: %d", got)
	}
	a.draining.Store(true)
	if got := status(); got != http.StatusServiceUnavailable {
		t.Errorf("while ending: %d", got)
	}
}

// TestRunEndsInOrder starts the whole server: TCP, UDP, and a request that is
// running when the end is asked for and must be answered.
func TestRunEndsInOrder(t *testing.T) {
	t.Parallel()
	lines, log := io.Pipe()
	vars := map[string]string{"PORT": "0", "POD_NAME": "p1"}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, func(k string) (string, bool) { v, ok := vars[k]; return v, ok },
			slog.New(slog.NewTextHandler(log, nil)))
		_ = log.Close()
	}()
	sc := bufio.NewScanner(lines)
	if !sc.Scan() {
		t.Fatalf("no first line: %v", <-ended)
	}
	_, address, _ := strings.Cut(sc.Text(), "address=")
	address, _, _ = strings.Cut(address, " ")
	_, port, err := net.SplitHostPort(strings.Trim(address, `"`))
	if err != nil {
		t.Fatalf("address in %q: %v", sc.Text(), err)
	}
	go func() {
		for sc.Scan() { // the rest of the log
		}
	}()

	udp, err := net.Dial("udp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	if _, err := udp.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	_ = udp.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 64)
	if n, err := udp.Read(buf); err != nil || string(buf[:n]) != "p1 ping" {
		t.Errorf("UDP echo: %q, %v", buf[:n], err)
	}

	// With Expect: 100-continue the body is read from pr only once the handler
	// asks for it, so that a write to pw means: the request is under way.
	pr, pw := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:"+port+"/echo", pr)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Expect", "100-continue")
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	answer := make(chan string, 1)
	go func() {
		resp, err := client.Do(req)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	if _, err := pw.Write([]byte("half ")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := pw.Write([]byte("whole")); err != nil {
		t.Fatal(err)
	}
	_ = pw.Close()
	if got := <-answer; got != "half whole" {
		t.Errorf("the running request got %q", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"READY_DELAY", "SHUTDOWN_DELAY"} {
		_, err := readConfig(func(k string) (string, bool) { return "soon", k == key })
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s=soon: %v", key, err)
		}
	}
}
