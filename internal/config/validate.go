package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation"
)

// problems collects what is wrong with the options of one command.
type problems []error

func (p *problems) add(option, format string, args ...any) {
	*p = append(*p, &Problem{Option: option, Reason: fmt.Sprintf(format, args...)})
}

// Validate reports every problem of a completed configuration, joined; each
// one is a *Problem that names its option. It looks at nothing but s.
func (s *Server) Validate() error {
	var p problems
	s.validateListen(&p)
	s.validateNetwork(&p)
	s.validateComponents(&p)
	s.validateSnapshots(&p)
	s.validateToken(&p)
	s.validateNode(&p)
	for _, o := range []struct {
		option string
		args   []string
	}{
		{"kube-apiserver-arg", s.KubeAPIServerArgs},
		{"kube-controller-manager-arg", s.KubeControllerManagerArgs},
		{"kube-scheduler-arg", s.KubeSchedulerArgs},
	} {
		p.args(o.option, o.args)
	}
	return errors.Join(p...)
}

// Validate is Server.Validate for an agent.
func (a *Agent) Validate() error {
	var p problems
	switch u, err := url.Parse(a.ServerURL); {
	case a.ServerURL == "":
		p.add("server", "is needed: the server to join, as https://HOST:6443")
	// That http is not enough is said by the agent, with an exit code of its own.
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Hostname() == "" || !usablePort(u.Port()):
		p.add("server", "%q is not of the form https://HOST:6443", a.ServerURL)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		p.add("server", "%q holds more than https://HOST:PORT", u.Redacted())
	}
	// A token is needed by a machine that has not joined yet; it says so itself.
	a.validateNode(&p)
	return errors.Join(p...)
}

// usablePort accepts the port of a URL; none is 443.
func usablePort(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && n > 0
}

// Validate reports the problems of the loaded command's configuration, each
// with the place that gave the value. Options that could not be decoded were
// reported by Load already and are left out.
func (l *Loaded) Validate() error {
	var err error
	if l.Command == ForAgent {
		agent := l.Agent()
		err = agent.Validate()
	} else {
		err = l.Server.Validate()
	}
	var out []error
	for _, e := range Problems(err) {
		p := (*Problem)(nil)
		if !errors.As(e, &p) {
			out = append(out, e)
			continue
		}
		if l.faulty[p.Option] {
			continue
		}
		if items := l.given[p.Option]; len(items) > 0 {
			p.Source = items[len(items)-1].source
		}
		out = append(out, p)
	}
	return errors.Join(out...)
}

// Complete fills in the defaults of the loaded command.
func (l *Loaded) Complete(hostname func() (string, error)) error {
	if l.Command == ForAgent {
		return l.Server.Node.Complete(hostname)
	}
	return l.Server.Complete(hostname)
}

func (s *Server) validateListen(p *problems) {
	if s.HTTPSListenPort < 1 || s.HTTPSListenPort > 65535 {
		p.add("https-listen-port", "%d is not a port (1 to 65535)", s.HTTPSListenPort)
	}
	if a := s.AdvertiseAddress; a.IsValid() {
		p.reachable("advertise-address", a)
		p.outside("advertise-address", a, s)
		if len(s.ServiceCIDR) > 0 && s.ServiceCIDR[0].Addr().Is4() != a.Is4() {
			p.add("advertise-address", "%s must be %s, as the first service-cidr is", a, familyName(!a.Is4()))
		}
	}
	for _, name := range s.TLSSANs {
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		if len(validation.IsDNS1123Subdomain(strings.ToLower(name))) > 0 && len(validation.IsWildcardDNS1123Subdomain(strings.ToLower(name))) > 0 {
			p.add("tls-san", "%q is neither an IP address nor a host name", name)
		}
	}
}

func (s *Server) validateComponents(p *problems) {
	if strings.TrimSpace(s.WriteKubeconfig) == "" || !filepath.IsAbs(s.WriteKubeconfig) {
		p.add("write-kubeconfig", "%q is not an absolute path", s.WriteKubeconfig)
	}
	if s.WriteKubeconfigMode > 0o777 || s.WriteKubeconfigMode&0o400 == 0 {
		p.add("write-kubeconfig-mode", "%04o does not let its owner read the file", s.WriteKubeconfigMode)
	}
	for _, name := range s.Disable {
		if known := PackagedComponents(); !slices.Contains(known, name) {
			p.add("disable", "%q is not a packaged component%s (there are: %s)",
				name, didYouMean(Suggest(name, known)), strings.Join(known, ", "))
		}
	}
	if s.AuditLogPath != "-" {
		p.absolute("audit-log-path", s.AuditLogPath)
	}
	p.absolute("audit-policy-file", s.AuditPolicyFile)
	auditElsewhere := slices.ContainsFunc(s.KubeAPIServerArgs, func(arg string) bool {
		return strings.HasPrefix(strings.TrimLeft(arg, "-"), "audit-")
	})
	if s.AuditPolicyFile != "" && s.AuditLogPath == "" && !auditElsewhere {
		p.add("audit-policy-file", "has no effect without audit-log-path")
	}
	if _, err := parsePortRange(s.ServiceNodePortRange); err != nil {
		p.add("service-node-port-range", "%v", err)
	}
}

func parsePortRange(text string) (utilnet.PortRange, error) {
	r, err := utilnet.ParsePortRange(text)
	switch {
	case err != nil:
		return utilnet.PortRange{}, fmt.Errorf("%q is not a range of ports such as 30000-32767", text)
	case r.Base < 1 || r.Size < 1:
		return utilnet.PortRange{}, fmt.Errorf("%q holds no usable port", text)
	}
	return *r, nil
}

// args checks only the form: each component knows its own arguments.
func (p *problems) args(option string, args []string) {
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name == "" || strings.ContainsAny(name, " \t") {
			p.add(option, "%q is not of the form NAME=VALUE", arg)
		}
	}
}

func (p *problems) absolute(option, path string) {
	if path != "" && !filepath.IsAbs(path) {
		p.add(option, "%q is not an absolute path", path)
	}
}
