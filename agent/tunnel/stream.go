package tunnel

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// lingerTimeout is how long a target may go on sending after the server has
// closed its connection: enough for the last bytes of a request to arrive.
const lingerTimeout = 10 * time.Second

// streams answers the server's requests on one connection.
type streams struct {
	policy  Policy
	pods    func(context.Context) (Pods, error)
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	log     *slog.Logger
	timeout time.Duration // of dial
}

func (s *streams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only CONNECT is understood here", http.StatusMethodNotAllowed)
		return
	}
	target, err := s.connect(r.Context(), r.Host)
	if err != nil {
		status := http.StatusBadGateway
		if refused := (*RefusedError)(nil); errors.As(err, &refused) {
			status = http.StatusForbidden
			s.log.Warn("refused a connection that the server asked for", "target", r.Host, "reason", refused.Reason)
		}
		http.Error(w, err.Error(), status)
		return
	}
	if !carry(w, r, target) {
		panic(http.ErrAbortHandler) // resets the stream: the server must not take this for the end of the data
	}
}

// connect opens the connection for a target that the policy allows.
func (s *streams) connect(ctx context.Context, target string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var pods Pods
	if !s.policy.kubelet(target) {
		var err error
		if pods, err = s.pods(ctx); err != nil {
			return nil, err
		}
	}
	addr, err := s.policy.Resolve(target, pods)
	if err != nil {
		return nil, err
	}
	return s.dial(ctx, "tcp", addr.String())
}

// carry copies both ways between the stream and the target until both are at
// their end, closes the target, and reports whether all went well.
func carry(w http.ResponseWriter, r *http.Request, target net.Conn) bool {
	defer target.Close()
	stop := context.AfterFunc(r.Context(), func() { _ = target.Close() })
	defer stop()
	rc := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return false
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, err := io.CopyBuffer(onlyWriter{target}, r.Body, make([]byte, CopyBuffer))
		if err != nil || closeWrite(target) != nil || target.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
			_ = target.Close()
		}
	}()
	err := receive(w, rc, target)
	// Lets go of the goroutine above: the server may still be sending.
	_ = target.Close()
	_ = rc.SetReadDeadline(time.Unix(1, 0))
	<-sent
	return err == nil || errors.Is(err, os.ErrDeadlineExceeded)
}

// receive copies from the target, every piece at once.
func receive(w io.Writer, rc *http.ResponseController, target io.Reader) error {
	buf := make([]byte, CopyBuffer)
	for {
		n, err := target.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := rc.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// onlyWriter hides the target's ReadFrom, with which io.CopyBuffer would leave
// its buffer unused.
type onlyWriter struct{ io.Writer }

func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// podSource reads the node's pod ranges once for each connection to the server:
// they change only when the Node is deleted and made anew, and then the server
// ends the tunnel.
type podSource struct {
	ranges func(context.Context) ([]netip.Prefix, error)

	turn  chan struct{} // holds one token
	known []netip.Prefix
}

func newPodSource(ranges func(context.Context) ([]netip.Prefix, error)) *podSource {
	return &podSource{ranges: ranges, turn: make(chan struct{}, 1)}
}

func (p *podSource) pods(ctx context.Context) (Pods, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return Pods{}, ctx.Err()
	}
	if len(p.known) == 0 {
		ranges, err := p.ranges(ctx)
		if err != nil {
			return Pods{}, err
		}
		p.known = ranges
	}
	machine, err := machineAddrs()
	return Pods{Ranges: p.known, Machine: machine}, err
}
