package dns

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"
)

// inputs is everything that decides the configuration of the server.
type inputs struct {
	files      virtualFiles
	own        ownAddresses
	upstreams  []string       // name servers for "/etc/resolv.conf"
	allow      []netip.Prefix // who is answered, besides local
	local      []netip.Addr   // addresses of this machine
	kubeconfig string         // for kubernetes blocks that name no server; empty: leave them
	quickStart bool           // listen at once, even if the API server does not answer yet
	runDir     string         // files that CoreDNS reads are put below it
}

// plan is a configuration ready to be run.
type plan struct {
	text        string            // what CoreDNS gets
	dir         string            // where files go; its name depends on their contents
	files       map[string]string // by path relative to dir
	notes       []string          // what was left out of the user's Corefile, one line each
	kubernetes  bool              // names of the cluster are served
	metricsPort int               // of prometheus, 0 if it is not configured or on loopback only
}

// compile turns the inputs into a plan. It reads nothing but its inputs.
func compile(in inputs) (plan, error) {
	lines, err := expand(in.files)
	if err != nil {
		return plan{}, err
	}
	blocks, err := parseBlocks(configDir+"/Corefile", lines, slices.Concat(directives(), leftOut()))
	if err != nil {
		return plan{}, err
	}
	c := compiler{in: in, plan: plan{files: make(map[string]string)}}
	c.plan.dir = path.Join(in.runDir, digest(in.files))
	for i := range blocks {
		if err := c.block(&blocks[i]); err != nil {
			return plan{}, fmt.Errorf("server block %s: %w", strings.Join(blocks[i].keys, " "), err)
		}
	}
	if !c.reachable {
		return plan{}, fmt.Errorf("no server block listens on port 53 of the cluster DNS address: remove \"bind\" from the main block")
	}
	slices.Sort(c.plan.notes)
	c.plan.notes = slices.Compact(c.plan.notes)
	c.plan.text, err = format(blocks, directives())
	return c.plan, err
}

// digest names a set of files by its contents.
func digest(files virtualFiles) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%d %s %d %s", len(name), name, len(files[name]), files[name])
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

type compiler struct {
	in        inputs
	plan      plan
	reachable bool // some block listens where the Service points
}

func (c *compiler) block(b *block) error {
	if _, own := b.statements["bind"]; !own {
		if err := c.listen(b); err != nil {
			return err
		}
	}
	for _, name := range leftOut() {
		if _, ok := b.statements[name]; ok {
			c.plan.notes = append(c.plan.notes, fmt.Sprintf("directive %q is ignored: %s", name, leftOutReason(name)))
			delete(b.statements, name)
		}
	}
	for name, rewrite := range map[string]func(*statement) error{
		"kubernetes": c.kubernetes,
		"hosts":      c.hosts,
		"file":       c.zoneFile,
		"prometheus": c.prometheus,
	} {
		for i := range b.statements[name] {
			if err := rewrite(&b.statements[name][i]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if err := c.forwards(b); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	// Last, so that a user's own rules come first and can open the server to others.
	b.statements["acl"] = append(b.statements["acl"], c.acl())
	return nil
}

// listen binds the block to the node's addresses and moves port 53 to ours,
// where the Service's port 53 leads.
func (c *compiler) listen(b *block) error {
	moved := false
	for i, key := range b.keys {
		trans, zone := parse.Transport(key)
		if trans != transport.DNS {
			continue
		}
		_, port, err := plugin.SplitHostPort(zone)
		if err != nil {
			return err
		}
		if port != "" && port != transport.Port {
			continue
		}
		zone = strings.TrimSuffix(zone, ":"+port)
		b.keys[i] = zone + ":" + strconv.Itoa(c.in.own.port)
		moved = true
	}
	c.reachable = c.reachable || moved
	args := make([]string, 0, len(c.in.own.listen))
	for _, a := range c.in.own.listen {
		args = append(args, a.String())
	}
	b.statements["bind"] = []statement{{args: args}}
	return nil
}

func (c *compiler) kubernetes(s *statement) error {
	c.plan.kubernetes = true
	if c.in.kubeconfig != "" && !s.has("endpoint", "kubeconfig") {
		s.set("kubeconfig", c.in.kubeconfig)
	}
	if c.in.quickStart && !s.has("startup_timeout") {
		s.set("startup_timeout", "1ms") // upstream waits up to 5 s before it listens
	}
	return nil
}

// hosts lets the plugin read its file from us, once: a changed ConfigMap builds
// a new configuration, so the plugin need not look every few seconds.
func (c *compiler) hosts(s *statement) error {
	name := configDir + "/.none" // never the machine's /etc/hosts
	if len(s.args) > 0 {
		name = s.args[0]
	}
	p, err := c.virtual(name, true)
	if err != nil {
		return err
	}
	s.args = append([]string{p}, s.args[min(1, len(s.args)):]...)
	s.set("reload", "0")
	return nil
}

func (c *compiler) zoneFile(s *statement) error {
	if len(s.args) == 0 {
		return nil // CoreDNS says it better
	}
	p, err := c.virtual(s.args[0], false)
	if err != nil {
		return err
	}
	s.args[0] = p
	s.set("reload", "0")
	return nil
}

// virtual arranges that the virtual file exists in the plan's directory and returns its real path.
func (c *compiler) virtual(name string, mayMiss bool) (string, error) {
	name = resolve(name)
	rel, ok := strings.CutPrefix(name, configDir+"/")
	if !ok {
		return "", fmt.Errorf("file %s cannot be read: the DNS server sees only the keys of the ConfigMaps coredns (as %s/KEY) and coredns-custom (as %s/KEY)",
			name, configDir, customDir)
	}
	text, ok := c.in.files[name]
	if !ok && !mayMiss {
		return "", fmt.Errorf("no file %s: the ConfigMap has no such key", name)
	}
	c.plan.files[rel] = text
	return path.Join(c.plan.dir, rel), nil
}

// prometheus binds an address without a host to the node's address.
func (c *compiler) prometheus(s *statement) error {
	if len(s.args) != 1 {
		return nil
	}
	host, port, err := net.SplitHostPort(s.args[0])
	if err != nil {
		return err
	}
	if host == "" && len(c.in.own.listen) > 0 {
		s.args[0] = net.JoinHostPort(c.in.own.listen[0].String(), port)
	}
	if a, err := netip.ParseAddr(host); host == "" || err == nil && !a.IsLoopback() {
		c.plan.metricsPort, _ = strconv.Atoi(port)
	}
	return nil
}

// forwards resolves the upstreams of each forward; one that has none left
// fails at once instead of timing out.
func (c *compiler) forwards(b *block) error {
	var kept []statement
	for _, s := range b.statements["forward"] {
		if len(s.args) < 2 {
			kept = append(kept, s) // CoreDNS says it better
			continue
		}
		to, err := c.upstreams(s.args[1:])
		if err != nil {
			return err
		}
		if len(to) == 0 {
			c.plan.notes = append(c.plan.notes, fmt.Sprintf("no name server to forward %q to: such names fail with SERVFAIL", s.args[0]))
			b.statements[directiveNoUpstream] = append(b.statements[directiveNoUpstream], statement{args: s.args[:1]})
			continue
		}
		s.args = append(s.args[:1:1], to...)
		kept = append(kept, s)
	}
	if len(kept) == 0 {
		delete(b.statements, "forward")
		return nil
	}
	b.statements["forward"] = kept
	guard := statement{}
	for _, a := range c.in.local {
		guard.args = append(guard.args, a.String())
	}
	b.statements[directiveLoopGuard] = []statement{guard}
	return nil
}

func (c *compiler) upstreams(to []string) ([]string, error) {
	var out []string
	for _, t := range to {
		switch {
		case t == "/etc/resolv.conf":
			out = append(out, c.in.upstreams...)
		case strings.HasPrefix(t, "/"):
			return nil, fmt.Errorf("file %s cannot be read: name the servers, or /etc/resolv.conf for those of the node", t)
		default:
			ap, ok := plainUpstream(t)
			if ok && c.in.own.leadsBack(ap) {
				c.plan.notes = append(c.plan.notes, fmt.Sprintf("forward to %s is ignored: it is this DNS server", t))
				continue
			}
			out = append(out, t)
		}
	}
	seen := make(map[string]bool, len(out))
	return slices.DeleteFunc(out, func(t string) bool {
		dup := seen[t]
		seen[t] = true
		return dup
	}), nil
}

// plainUpstream reads an upstream without scheme (or dns://) that is an address.
func plainUpstream(to string) (netip.AddrPort, bool) {
	trans, host := parse.Transport(to)
	if trans != transport.DNS {
		return netip.AddrPort{}, false
	}
	if ap, err := netip.ParseAddrPort(host); err == nil {
		return ap, true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return netip.AddrPortFrom(a, 53), err == nil
}

// acl answers pods, nodes and this machine and refuses everybody else: the
// server listens on the node's network and shall not be an open resolver there.
func (c *compiler) acl() statement {
	allow := []string{"allow", "net", "127.0.0.0/8", "::1/128"}
	for _, a := range c.in.local {
		if !a.IsLoopback() {
			allow = append(allow, netip.PrefixFrom(a, a.BitLen()).String())
		}
	}
	for _, p := range c.in.allow {
		allow = append(allow, p.Masked().String())
	}
	return statement{body: [][]string{allow, {"block"}}}
}
