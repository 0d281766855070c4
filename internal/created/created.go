// Package created keeps the record of what limpet has made on its machine, so
// that `limpet uninstall` removes that and nothing else: another product may
// use the same names (cni0, /var/lib/kubelet, a table kube-proxy).
//
// The record is kept by looking before making: at every start, before anything
// is changed, what is not there yet and not recorded is noted as limpet's. What
// is there and not recorded is somebody else's, and stays so.
package created

import (
	"maps"
	"slices"
	"strings"
)

// Record is what <data>/created.json holds.
type Record struct {
	Version int `json:"version"` // 1
	// Paths are files and directories that were not there before limpet.
	Paths []string `json:"paths"`
	// Interfaces are names of network interfaces, Tables are "FAMILY NAME" of
	// nftables, Cgroups are names below the root of each hierarchy.
	Interfaces []string `json:"interfaces"`
	Tables     []string `json:"tables"`
	Cgroups    []string `json:"cgroups"`
	// Sysctls are kernel settings by their path below /proc/sys.
	Sysctls map[string]Sysctl `json:"sysctls,omitempty"`
}

// Sysctl is one setting. Set is empty until limpet has come up once.
type Sysctl struct {
	Before string `json:"before"`
	Set    string `json:"set,omitempty"`
}

const version = 1

// The names that limpet makes, or has the kubelet, kube-proxy, containerd and
// the CNI plugins make.
var (
	interfaceNames = []string{"cni0", "flannel.1", "flannel-v6.1"}
	tableNames     = []string{
		"ip kube-proxy", "ip6 kube-proxy", "ip cni_hostport", "ip6 cni_hostport",
		"ip limpet-masquerade", "ip6 limpet-masquerade",
	}
	cgroupNames = []string{"kubepods", "kubepods.slice"}
)

// OwnTablePrefix begins the names of tables that nobody but limpet makes.
const OwnTablePrefix = "limpet-"

// sysctlNames are the settings that limpet, the kubelet and kube-proxy change.
var sysctlNames = []string{
	"net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv4/conf/default/forwarding", "net/ipv4/conf/all/route_localnet",
	"net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding",
	"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables",
	"net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_tcp_timeout_established",
	"net/netfilter/nf_conntrack_tcp_timeout_close_wait", "net/netfilter/nf_conntrack_tcp_be_liberal",
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// kubeletSets are the values that the kubelet and limpet are known to set: they
// tell what is theirs when limpet ended before it had come up.
var kubeletSets = map[string]string{
	"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/forwarding": "1", "net/ipv4/conf/default/forwarding": "1",
	"net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/default/forwarding": "1",
	"net/bridge/bridge-nf-call-iptables": "1", "net/bridge/bridge-nf-call-ip6tables": "1",
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// Seen is what a look at the machine found of those names.
type Seen struct {
	Paths, Interfaces, Tables, Cgroups map[string]bool
	Sysctls                            map[string]string
}

// Candidates are the names that are looked for. The paths are those that hold
// for every machine; a start adds those of its configuration.
type Candidates struct {
	Paths, Interfaces, Tables, Cgroups, Sysctls []string
}

// All returns the candidates, with more paths.
func All(paths ...string) Candidates {
	return Candidates{
		Paths: append([]string{
			"/etc/limpet", "/run/limpet", "/var/lib/kubelet", "/var/lib/cni", "/etc/cni", "/opt/cni",
			"/var/log/pods", "/var/log/containers", "/run/netns", "/run/containerd", "/run/flannel",
			"/run/xtables.lock", "/usr/libexec/kubernetes", "/etc/kubernetes",
			// The guard of an upgrade, which removes these itself in the end.
			"/etc/systemd/system/limpet-upgrade-guard.service", "/etc/systemd/system/multi-user.target.wants/limpet-upgrade-guard.service",
			"/etc/init.d/limpet-upgrade-guard", "/etc/runlevels/default/limpet-upgrade-guard",
		}, paths...),
		Interfaces: slices.Clone(interfaceNames), Tables: slices.Clone(tableNames),
		Cgroups: slices.Clone(cgroupNames), Sysctls: slices.Clone(sysctlNames),
	}
}

// Next is the record for a machine on which limpet is about to start.
func (r Record) Next(c Candidates, seen Seen) Record {
	n := Record{
		Version:    version,
		Paths:      ours(r.Paths, c.Paths, seen.Paths),
		Interfaces: ours(r.Interfaces, c.Interfaces, seen.Interfaces),
		Tables:     ours(r.Tables, c.Tables, seen.Tables),
		Cgroups:    ours(r.Cgroups, c.Cgroups, seen.Cgroups),
		Sysctls:    maps.Clone(r.Sysctls),
	}
	if n.Sysctls == nil {
		n.Sysctls = map[string]Sysctl{}
	}
	for name, value := range seen.Sysctls {
		if _, known := n.Sysctls[name]; !known {
			n.Sysctls[name] = Sysctl{Before: value}
		}
	}
	return n
}

// ours adds the candidates that nobody else has; none if nobody could look.
func ours(recorded, candidates []string, seen map[string]bool) []string {
	list := slices.Clone(recorded)
	if seen == nil {
		candidates = nil
	}
	for _, c := range candidates {
		if !seen[c] && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	slices.Sort(list)
	return list
}

// Settled notes what the settings are now that limpet is up. A setting that
// came into being with a kernel module was nobody's before.
func (r Record) Settled(now map[string]string) Record {
	n := r
	n.Sysctls = maps.Clone(r.Sysctls)
	for name, s := range n.Sysctls {
		if value, ok := now[name]; ok && value != s.Before {
			s.Set = value
			n.Sysctls[name] = s
		}
	}
	return n
}

// Restore are the settings to write so that the machine is as before: those
// that limpet changed and nobody has changed since.
func (r Record) Restore(now map[string]string) map[string]string {
	restore := map[string]string{}
	for name, s := range r.Sysctls {
		set := s.Set
		if set == "" {
			set = kubeletSets[name]
		}
		if value, ok := now[name]; ok && value == set && value != s.Before {
			restore[name] = s.Before
		}
	}
	return restore
}

// OwnsInterface tells whether an interface with that name is limpet's.
func (r Record) OwnsInterface(name string) bool { return slices.Contains(r.Interfaces, name) }

// OwnsTable tells it of a table, "FAMILY NAME".
func (r Record) OwnsTable(table string) bool {
	_, name, _ := strings.Cut(table, " ")
	return strings.HasPrefix(name, OwnTablePrefix) || slices.Contains(r.Tables, table)
}

// OwnsCgroup tells it of a control group by the first element of a path in a hierarchy.
func (r Record) OwnsCgroup(name string) bool { return slices.Contains(r.Cgroups, name) }

// OwnsPath tells whether the path, or a directory that it is in, was made by limpet.
func (r Record) OwnsPath(path string) bool {
	return slices.ContainsFunc(r.Paths, func(own string) bool {
		return path == own || strings.HasPrefix(path, own+"/")
	})
}

// Assumed is the record for a machine that has none, because it was lost. If
// limpet has run since the boot, what has the names that it gives is taken for
// limpet's; otherwise only what can be nobody else's.
func Assumed(dataDir string, ran bool) Record {
	r := Record{Version: version, Paths: []string{"/etc/limpet", "/run/limpet", dataDir}}
	if ran {
		all := All(dataDir)
		r.Paths, r.Interfaces, r.Tables, r.Cgroups = all.Paths, all.Interfaces, all.Tables, all.Cgroups
	}
	slices.Sort(r.Paths)
	return r
}
