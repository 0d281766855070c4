package dns

import (
	"errors"
	"fmt"
	golog "log"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/caddy"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"k8s.io/klog/v2"
)

// engine runs one CoreDNS instance and swaps its configuration. Not for
// concurrent use.
type engine struct {
	log    *slog.Logger
	runDir string

	inst   *caddy.Instance
	listen []netip.AddrPort
	dir    string // of the running plan
}

// prepare makes CoreDNS of this process ready to be started.
func (e *engine) prepare() error {
	if err := register(); err != nil {
		return fmt.Errorf("register CoreDNS directives: %w", err)
	}
	// CoreDNS's text logger writes to the standard logger, which Kubernetes
	// redirects to klog, which CoreDNS's kubernetes plugin redirects to CoreDNS's
	// logger: the first line would wait for itself. The JSON logger writes straight to its
	// writer. Configure also takes the standard logger over; give that back.
	out, flags, prefix := golog.Writer(), golog.Flags(), golog.Prefix()
	if err := clog.Configure("json", &logBridge{log: e.log}); err != nil {
		return fmt.Errorf("configure CoreDNS's logger: %w", err)
	}
	golog.SetOutput(out)
	golog.SetFlags(flags)
	golog.SetPrefix(prefix)
	return os.MkdirAll(e.runDir, 0o700)
}

func (e *engine) running() bool { return e.inst != nil }

// apply starts the plan, or swaps it for the running one. On an error what ran before still runs.
func (e *engine) apply(p plan, listen []netip.AddrPort) error {
	if err := e.probe(listen); err != nil {
		return err
	}
	if err := writePlan(e.runDir, p); err != nil {
		return err
	}
	in := &input{CaddyfileInput: caddy.CaddyfileInput{
		Filepath:       filepath.Join(e.runDir, "Corefile"),
		Contents:       []byte(p.text),
		ServerTypeName: "dns",
	}}
	inst, err := e.swap(in)
	if err != nil {
		in.release(e.inst)
		if p.dir != e.dir {
			err = errors.Join(err, os.RemoveAll(p.dir))
		}
		return err
	}
	e.inst, e.listen = inst, slices.Clone(listen)
	awaitServing(listen)
	if old := e.dir; old != "" && old != p.dir {
		if err := os.RemoveAll(old); err != nil {
			e.log.Warn("Remove files of the previous DNS configuration", "err", err)
		}
	}
	e.dir = p.dir
	return nil
}

// swap calls CoreDNS and survives what its plugins may do in their set-up:
// panic, and take klog over for the whole process.
func (e *engine) swap(in *input) (inst *caddy.Instance, err error) {
	defer klog.CaptureState().Restore()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("CoreDNS panicked: %v", r)
		}
	}()
	if e.inst == nil {
		inst, err = caddy.Start(in)
	} else {
		inst, err = e.inst.Restart(in)
	}
	if err == nil && (inst == nil || inst == e.inst) {
		err = errors.New("CoreDNS panicked while it was restarted") // Restart recovers and tells nobody
	}
	if err != nil {
		text := strings.TrimPrefix(err.Error(), "starting with listener file descriptors: ")
		return inst, errors.New(text)
	}
	return inst, nil
}

// stop ends the server and releases its sockets.
func (e *engine) stop() error {
	if e.inst == nil {
		return nil
	}
	err := errors.Join(e.inst.ShutdownCallbacks()...)
	err = errors.Join(err, e.inst.Stop())
	e.inst.Wait()
	e.inst = nil
	if e.dir != "" {
		err = errors.Join(err, os.RemoveAll(e.dir))
	}
	return err
}

// probe checks that the addresses not yet in use can be listened on. CoreDNS
// sets SO_REUSEPORT and would silently share a port with another server.
func (e *engine) probe(listen []netip.AddrPort) error {
	for _, a := range listen {
		if slices.Contains(e.listen, a) {
			continue
		}
		u, err := net.ListenPacket("udp", a.String())
		if err != nil {
			return &listenError{a, err}
		}
		_ = u.Close()
		t, err := net.Listen("tcp", a.String())
		if err != nil {
			return &listenError{a, err}
		}
		_ = t.Close()
	}
	return nil
}

// listenError says that an address or port is not to be had now.
type listenError struct {
	at  netip.AddrPort
	err error
}

func (e *listenError) Error() string { return fmt.Sprintf("listen for DNS on %s: %v", e.at, e.err) }
func (e *listenError) Unwrap() error { return e.err }

// input is a Corefile that remembers the instance being made from it. A failed
// Restart does not return that, and its informers would run for ever.
type input struct {
	caddy.CaddyfileInput
	inst *caddy.Instance
}

// Body implements caddy.Input. Caddy calls it when the new instance has just
// become the last of its list.
func (in *input) Body() []byte {
	if all := caddy.Instances(); len(all) > 0 {
		in.inst = all[len(all)-1]
	}
	return in.Contents
}

// release stops what a failed start has started, unless it is the running instance.
func (in *input) release(running *caddy.Instance) {
	if in.inst == nil || in.inst == running {
		return
	}
	defer func() { _ = recover() }() // a half-built plugin may not know how to stop
	for _, shutdown := range in.inst.OnShutdown {
		_ = shutdown()
	}
	_ = in.inst.Stop()
}

// writePlan puts the files that CoreDNS reads in place, and the Corefile for
// people: its line numbers are those of CoreDNS's messages.
func writePlan(runDir string, p plan) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("write DNS configuration: %w", err)
	}
	for rel, text := range p.files {
		name := filepath.Join(p.dir, filepath.FromSlash(rel))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return fmt.Errorf("write DNS configuration: %w", err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write DNS configuration: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(runDir, "Corefile"), []byte(p.text), 0o600); err != nil {
		return fmt.Errorf("write DNS configuration: %w", err)
	}
	return nil
}

// addrPorts joins each address with the port.
func addrPorts(addrs []netip.Addr, port int) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, netip.AddrPortFrom(a, uint16(port)))
	}
	return out
}

func joinAddrPorts(addrs []netip.AddrPort) string {
	s := make([]string, 0, len(addrs))
	for _, a := range addrs {
		s = append(s, net.JoinHostPort(a.Addr().String(), strconv.Itoa(int(a.Port()))))
	}
	return strings.Join(s, " ")
}
