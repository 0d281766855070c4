package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// reconcile compiles the inputs as they are now and applies the result if it
// differs from what runs. It returns an error only if trying again may help.
func (s *Server) reconcile(ctx context.Context) error {
	in, err := s.gather()
	if err != nil {
		s.setError(err)
		return err
	}
	if len(in.own.listen) == 0 {
		s.setError(errors.New("the node has no address to listen on yet"))
		return nil // SetListenAddrs will wake us
	}
	p, err := compile(in)
	if err != nil {
		s.refuse(ctx, err, s.customAtFault(in))
		return s.startDefault(in)
	}
	if s.engine.running() && p.text == s.running {
		s.accept(ctx)
		return nil
	}
	if err := s.apply(in, p); err != nil {
		var busy *listenError
		if errors.As(err, &busy) {
			s.unavailable(err)
			return err
		}
		s.refuse(ctx, err, s.customAtFault(in))
		return errors.Join(err, s.startDefault(in))
	}
	s.accept(ctx)
	return nil
}

// apply makes the plan the running one.
func (s *Server) apply(in inputs, p plan) error {
	run := p
	if !s.engine.running() {
		in.quickStart = true
		var err error
		if run, err = compile(in); err != nil {
			return err
		}
	}
	listen := addrPorts(in.own.listen, in.own.port)
	start := time.Now()
	if err := s.engine.apply(run, listen); err != nil {
		return err
	}
	s.log.Info("DNS server listens", "addresses", joinAddrPorts(listen), "upstreams", in.upstreams, "took", time.Since(start).Round(time.Millisecond))
	for _, note := range p.notes {
		s.log.Info("Corefile: " + note)
	}
	s.mu.Lock()
	s.status = Status{Listen: listen, Upstreams: in.upstreams, Since: time.Now(), Notes: p.notes}
	s.kubernetes = p.kubernetes
	s.endpoint = endpointAt(in.own.listen, in.own.port, p.metricsPort)
	s.mu.Unlock()
	s.running = p.text
	poke(s.wakeEP)
	return nil
}

// startDefault brings the built-in configuration up when the user's is refused and none runs yet.
func (s *Server) startDefault(in inputs) error {
	if s.engine.running() {
		return nil
	}
	reason := s.Status().Error
	in.files = newVirtualFiles(map[string]string{
		"Corefile":  DefaultCorefile(s.opts.ClusterDomain),
		"NodeHosts": in.files[configDir+"/NodeHosts"],
	}, nil)
	p, err := compile(in)
	if err != nil {
		return err
	}
	if err := s.apply(in, p); err != nil {
		return err
	}
	s.setError(errors.New(reason))
	return nil
}

// customAtFault tells whether the refused configuration would have been good
// without coredns-custom, as far as that can be told.
func (s *Server) customAtFault(in inputs) bool {
	if s.source == nil {
		return false
	}
	main, custom, found := s.source.config()
	if len(custom) == 0 {
		return false
	}
	if !found || digest(newVirtualFiles(main, nil)) == s.goodMain {
		return true
	}
	_, err := compile(in)
	if err == nil {
		return false // it is CoreDNS that refuses, and main is new
	}
	in.files = newVirtualFiles(main, nil)
	_, err = compile(in)
	return err == nil
}

// unavailable records that an address or port cannot be had, no fault of the configuration.
func (s *Server) unavailable(err error) {
	if s.Status().Error != err.Error() {
		s.log.Warn("DNS server cannot listen yet", "err", err)
	}
	s.setError(err)
}

// refuse records why a configuration is not used; once for each reason.
func (s *Server) refuse(ctx context.Context, err error, custom bool) {
	s.setError(fmt.Errorf("configuration refused: %w", err))
	if s.refused == err.Error() {
		return
	}
	s.refused = err.Error()
	s.log.Error("DNS configuration refused; what ran before still runs", "err", err)
	s.event(ctx, custom, corev1.EventTypeWarning, "ConfigRefused", "not used: "+err.Error())
}

// accept records that the newest configuration runs.
func (s *Server) accept(ctx context.Context) {
	s.setError(nil)
	if s.source != nil {
		main, _, _ := s.source.config()
		s.goodMain = digest(newVirtualFiles(main, nil))
	}
	if s.refused == "" {
		return
	}
	s.refused = ""
	s.event(ctx, false, corev1.EventTypeNormal, "ConfigApplied", "the DNS server uses this configuration")
}

func (s *Server) event(ctx context.Context, custom bool, kind, reason, message string) {
	if s.source == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	if err := s.source.event(ctx, custom, kind, reason, message); err != nil {
		s.log.Warn("Report the DNS configuration", "err", err)
	}
}

func (s *Server) setError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Error = ""
	if err != nil {
		s.status.Error = err.Error()
	}
}

// gather reads all inputs as they are now.
func (s *Server) gather() (inputs, error) {
	s.mu.Lock()
	listen := slices.Clone(s.listen)
	s.mu.Unlock()
	in := inputs{
		own:        ownAddresses{listen: listen, port: s.opts.Port, clusterDNS: s.opts.ClusterDNS},
		allow:      slices.Clone(s.opts.AllowFrom),
		kubeconfig: s.opts.Kubeconfig,
		runDir:     s.opts.RunDir,
	}
	files := map[string]string{"Corefile": DefaultCorefile(s.opts.ClusterDomain)}
	var custom map[string]string
	if s.source != nil {
		if main, c, found := s.source.config(); found {
			files, custom = main, c
		} else {
			custom = c
		}
		in.allow = append(in.allow, hostPrefixes(s.source.nodeAddresses(), in.allow, listen)...)
	}
	in.files = newVirtualFiles(files, custom)

	servers, err := s.resolv.servers()
	if err != nil {
		return inputs{}, err
	}
	in.upstreams = in.own.usable(servers)
	in.local, err = localAddresses(listen, s.opts.AllowFrom)
	return in, err
}
