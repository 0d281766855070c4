package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what a request can ask for.
const (
	maxEcho = 16 << 20 // bytes
	maxFile = 16 << 20 // bytes
)

// app answers the requests. It is safe for concurrent use.
type app struct {
	config
	now      func() time.Time
	start    time.Time
	draining atomic.Bool

	mu   sync.Mutex
	held [][]byte // memory taken by /alloc
}

func newApp(c config, now func() time.Time) *app {
	return &app{config: c, now: now, start: now()}
}

// handler serves:
//
//	/             pod, host and version, one "key=value" a line
//	/version      the version alone
//	/healthz      200
//	/readyz       200 once READY_DELAY is over, 503 before it and while ending
//	/env?k=NAME   value of an environment variable, 404 when unset
//	/file?p=PATH  content of a file, 404 when it cannot be read
//	/echo         the request's body
//	/clientip     address of the caller as seen here
//	/sleep?ms=N   answers after N ms (at most 60000)
//	/burn?ms=N&n=M  M busy goroutines for N ms (at most 60000 and 64)
//	/alloc?mb=N   takes N MiB more and keeps them; /free lets go
func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", a.root)
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) { reply(w, a.version) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { reply(w, "ok") })
	mux.HandleFunc("/readyz", a.readyz)
	mux.HandleFunc("/env", env)
	mux.HandleFunc("/file", file)
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("/clientip", clientIP)
	mux.HandleFunc("/sleep", a.sleep)
	mux.HandleFunc("/burn", a.burn)
	mux.HandleFunc("/alloc", a.alloc)
	mux.HandleFunc("/free", a.free)
	return mux
}

func (a *app) root(w http.ResponseWriter, _ *http.Request) {
	reply(w, fmt.Sprintf("pod=%s\nhost=%s\nversion=%s", a.pod, a.host, a.version))
}

func (a *app) readyz(w http.ResponseWriter, _ *http.Request) {
	switch wait := a.readyDelay - a.now().Sub(a.start); {
	case a.draining.Load():
		http.Error(w, "ending", http.StatusServiceUnavailable)
	case wait > 0:
		http.Error(w, "ready in "+wait.String(), http.StatusServiceUnavailable)
	default:
		reply(w, "ok")
	}
}

func env(w http.ResponseWriter, r *http.Request) {
	k := r.FormValue("k")
	v, ok := os.LookupEnv(k)
	if !ok {
		http.Error(w, "not set: "+k, http.StatusNotFound)
		return
	}
	reply(w, v)
}

func file(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(r.FormValue("p"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		http.Error(w, "not a regular file", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.Copy(w, io.LimitReader(f, maxFile))
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEcho))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(body)
}

func clientIP(w http.ResponseWriter, r *http.Request) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(w, host)
}

func reply(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text+"\n")
}
