// Command httpd is the server of the test images: small, static, and with the
// handles that tests of probes, limits, Services and updates need. It listens
// on one port, TCP for HTTP and UDP for an echo.
//
// Environment:
//
//	PORT             TCP and UDP port (8080)
//	POD_NAME         name in the answers (the host name)
//	HTTPD_VERSION    version in the answers ("dev"; the images bake theirs in)
//	READY_DELAY      /readyz answers 503 for so long after the start (0s)
//	SHUTDOWN_DELAY   after SIGTERM: not ready, but serving, for so long (0s)
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// drainTimeout bounds the requests that are still running at the end.
const drainTimeout = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	err := run(ctx, os.LookupEnv, log)
	stop()
	if err != nil {
		log.Error("httpd ends", "err", err)
		os.Exit(1)
	}
}

// run serves until ctx is done, then ends in order.
func run(ctx context.Context, lookup func(string) (string, bool), log *slog.Logger) error {
	cfg, err := readConfig(lookup)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	tcp, err := lc.Listen(ctx, "tcp", ":"+cfg.port)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	udp, err := lc.ListenPacket(ctx, "udp", tcp.Addr().(*net.TCPAddr).AddrPort().String())
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), tcp.Close())
	}
	go echoPackets(udp, cfg.pod)

	app := newApp(cfg, time.Now)
	srv := &http.Server{Handler: app.handler(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(tcp) }()
	log.Info("serving", "address", tcp.Addr().String(), "pod", cfg.pod, "version", cfg.version)
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", errors.Join(err, udp.Close()))
	case <-ctx.Done():
	}

	log.Info("ending", "delay", cfg.shutdownDelay.String())
	app.draining.Store(true)
	time.Sleep(cfg.shutdownDelay) // endpoints still point here: serve on
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return errors.Join(srv.Shutdown(drain), udp.Close())
}

// echoPackets answers every UDP packet with "<pod> <packet>" until c is closed.
func echoPackets(c net.PacketConn, pod string) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // e.g. an ICMP error of an earlier answer
		}
		_, _ = c.WriteTo(append([]byte(pod+" "), buf[:n]...), from)
	}
}
