package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// transferSize is what is sent each way, in bytes.
const transferSize = 100 << 20

// randomData is the same data for the same seed, without holding it.
func randomData(seed byte) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), transferSize)
}

func sum(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func readFile(s *space, file string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(file)
	s.ok(err)
	return data
}

// natTransfers sends 100 MiB in and out, through exec and through port-forward.
func natTransfers(s *space, box *corev1.Pod) {
	want, err := sum(randomData(1))
	s.ok(err)
	rate := func(what string, start time.Time) {
		s.t.Logf("%s: %.0f MiB/s", what, transferSize/(1<<20)/time.Since(start).Seconds())
	}

	start := time.Now()
	cmd := s.kubectlCommand(s.ctx, "exec", "-i", box.Name, "--", "sh", "-c", "cat >/tmp/data; sha256sum /tmp/data")
	cmd.Stdin = randomData(1)
	out, err := cmd.Output()
	if err != nil || !strings.HasPrefix(string(out), want) {
		s.t.Errorf("into the pod: %v, sum %.64s, want %s", err, out, want)
	}
	rate("exec, into the pod", start)

	start = time.Now()
	cmd = s.kubectlCommand(s.ctx, "exec", box.Name, "--", "cat", "/tmp/data")
	stdout, err := cmd.StdoutPipe()
	s.ok(err)
	s.ok(cmd.Start())
	got, err := sum(stdout)
	if waitErr := cmd.Wait(); err != nil || waitErr != nil || got != want {
		s.t.Errorf("out of the pod: %v, %v, sum %s, want %s", err, waitErr, got, want)
	}
	rate("exec, out of the pod", start)

	natPortForward(s, box, want, rate)
}

// natPortForward sends the data to an echo server in the pod's network and takes it back.
func natPortForward(s *space, box *corev1.Pod, want string, rate func(string, time.Time)) {
	var l net.Listener
	s.ok(podPlace(s.t, box).within(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:7007")
		return err
	}))
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	cmd := s.kubectlCommand(ctx, "port-forward", box.Name, ":7007")
	stdout, err := cmd.StdoutPipe()
	s.ok(err)
	s.ok(cmd.Start())
	defer func() { cancel(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n') // Forwarding from 127.0.0.1:PORT -> 7007
	s.ok(err)
	fields := strings.Fields(line)
	if len(fields) < 3 {
		s.t.Fatalf("port-forward said %q", line)
	}
	conn, err := net.DialTimeout("tcp", fields[2], 5*time.Second)
	s.ok(err)
	defer func() { _ = conn.Close() }()
	start := time.Now()
	go func() { _, _ = io.Copy(conn, randomData(1)) }()
	got, err := sum(io.LimitReader(conn, transferSize))
	if err != nil || got != want {
		s.t.Errorf("port-forward, both ways: %v, sum %s, want %s", err, got, want)
	}
	rate("port-forward, both ways at once", start)
}

// natSlowReaders leaves three endless streams unread; others must not notice.
func natSlowReaders(s *space, box *corev1.Pod) {
	ctx, cancel := context.WithCancel(s.ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer cancel()
	for range 3 {
		cmd := s.kubectlCommand(ctx, "exec", box.Name, "--", "cat", "/dev/zero")
		stdout, err := cmd.StdoutPipe()
		s.ok(err)
		s.ok(cmd.Start())
		streams.Go(func() { <-ctx.Done(); _ = cmd.Wait() })
		if _, err := io.CopyN(io.Discard, stdout, 1<<20); err != nil { // it runs; and from here on nobody reads
			s.t.Fatal(err)
		}
	}
	time.Sleep(time.Second) // all buffers fill
	start := time.Now()
	for i := range 5 {
		want := fmt.Sprintf("answer %d", i)
		if got := s.sh(box.Name, "echo "+want); got != want {
			s.t.Errorf("exec beside slow readers: %q", got)
		}
	}
	out := s.sh(box.Name, "head -c 8388608 /dev/zero | tr '\\0' x")
	if !bytes.Equal([]byte(out), bytes.Repeat([]byte("x"), 8<<20)) {
		s.t.Errorf("8 MiB beside slow readers: %d bytes came", len(out))
	}
	if took := time.Since(start); took > 20*time.Second {
		s.t.Errorf("beside slow readers five commands and 8 MiB took %s", took)
	} else {
		s.t.Logf("beside slow readers five commands and 8 MiB took %s", took.Round(time.Millisecond))
	}
}
