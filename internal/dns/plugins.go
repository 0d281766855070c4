package dns

import (
	"sync"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"

	// The plugins that a Corefile can use. Kept out on purpose: cloud and
	// database back ends, transports that need certificates (tls, quic, grpc),
	// view and geoip (large), debug (turns panic recovery off), pprof, and those
	// of leftOut.
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/dns64"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/whoami"
)

// Directives of our own; a Corefile cannot use them, compile adds them.
const (
	directiveLoopGuard  = "limpet_loopguard"
	directiveNoUpstream = "limpet_noupstream"
)

// directives lists what the server knows, in the order in which a query passes
// them: upstream's order, ours around forward.
func directives() []string {
	return []string{
		"metadata", "nsid", "bufsize", "bind", "prometheus", "errors", "log",
		"local", "dns64", "any", "loadbalance", "rewrite", "autopath", "acl",
		"cache", "header", "minimal", "template", "hosts", "kubernetes", "file",
		directiveLoopGuard, "forward", directiveNoUpstream, "whoami",
	}
}

// leftOut lists directives that are accepted, because Corefiles for pods have
// them, and dropped, because their purpose is served otherwise.
func leftOut() []string { return []string{"health", "ready", "reload", "loop", "debug"} }

func leftOutReason(directive string) string {
	switch directive {
	case "health", "ready": // also: ports 8080 and 8181 of the machine are the user's, and health polls itself
		return "the DNS server is no pod with probes; see `limpet status`"
	case "reload":
		return "changes of the ConfigMap are always picked up"
	case "loop": // upstream's exits the process
		return "limpet's own loop protection is always on"
	default: // debug turns the recovery from panics off, in the whole process
		return "a failing query must not stop the node"
	}
}

// register makes CoreDNS know our directives. CoreDNS keeps them for the
// process, hence once for the process.
var register = sync.OnceValue(func() error {
	plugin.Register(directiveLoopGuard, setupLoopGuard)
	plugin.Register(directiveNoUpstream, setupNoUpstream)
	if err := dnsserver.SetDirectives(directives()); err != nil {
		return err
	}
	dnsserver.Quiet = true
	return dnsserver.Register()
})
