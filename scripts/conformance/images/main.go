// Command images serves the images of the conformance specs as a registry, on
// the network of the test nodes. It has every image under the path that it has in
// the registries of the suite (registry.k8s.io/e2e-test-images/agnhost is
// e2e-test-images/agnhost here), so that the nodes need one mirror for all.
//
// Usage: images -bin DIR -debian FILE -busybox FILE -sources DIR -listen ADDRESS
// (scripts/conformance/run starts it). It prints "serving N images on ADDRESS"
// when all are there, and serves until it is ended.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	upstream "k8s.io/kubernetes/test/utils/image"
)

func main() {
	var in inputs
	flag.StringVar(&in.bin, "bin", "", "`directory` of the programs")
	flag.StringVar(&in.debian, "debian", "", "layer `file` with Debian's packages")
	flag.StringVar(&in.busybox, "busybox", "", "image archive `file` of busybox")
	flag.StringVar(&in.sources, "sources", "", "`directory` test/images of the Kubernetes module")
	listen := flag.String("listen", "127.0.0.1:5000", "`address` to serve on")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, in, *listen, os.Stdout)
	stop()
	if err != nil {
		slog.Error("serve conformance images", "err", err)
		os.Exit(1)
	}
}

// run serves the images of in until ctx is done, and tells when they are there.
func run(ctx context.Context, in inputs, address string, out io.Writer) error {
	images, err := catalog(in)
	if err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	srv := &http.Server{
		Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
		ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer srv.Close() //nolint:errcheck // ends what is left of requests

	for _, im := range images {
		if err := push(ctx, im, l.Addr().String()); err != nil {
			return fmt.Errorf("image %s: %w", upstream.GetE2EImage(im.id), err)
		}
	}
	if _, err := fmt.Fprintf(out, "serving %d images on %s\n", len(images), l.Addr()); err != nil {
		return fmt.Errorf("announce: %w", err)
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	if err := srv.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("end: %w", err)
	}
	return nil
}

// push brings an image to the registry at host, which takes it as it would from
// anybody: what nodes pull later went through the registry's own checks.
func push(ctx context.Context, im image, host string) error {
	ref, err := mirrored(upstream.GetE2EImage(im.id), host)
	if err != nil {
		return err
	}
	img, err := im.build()
	if err != nil {
		return err
	}
	return remote.Write(ref, img, remote.WithContext(ctx))
}

// mirrored is the place of an image in a mirror of its registry at host.
func mirrored(image, host string) (name.Tag, error) {
	_, rest, found := strings.Cut(image, "/")
	if !found {
		return name.Tag{}, fmt.Errorf("no registry in the name %q", image)
	}
	return name.NewTag(host+"/"+rest, name.StrictValidation, name.Insecure)
}
