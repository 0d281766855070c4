package hostcheck

import (
	"fmt"
	"strconv"
	"strings"
)

// bound is a setting that should be at least so large.
type bound struct {
	sysctl string
	least  uint64  // below: verdict
	lack   Verdict // Fail only where nothing can work
	why    string
}

func bounds() []bound {
	return []bound{
		{"fs/inotify/max_user_instances", 512, Warn, "each pod's log, volume and configuration watcher takes one"},
		{"fs/inotify/max_user_watches", 65536, Warn, "watchers in pods share them"},
		{"fs/file-max", 65536, Warn, "open files of the whole machine"},
		{"user/max_net_namespaces", 64, Fail, "each pod takes one"},
		{"user/max_mnt_namespaces", 64, Fail, "each container takes one"},
		{"user/max_pid_namespaces", 64, Fail, "each container takes one"},
		{"kernel/pid_max", 32768, Warn, "processes of all pods"},
		{"kernel/keys/root_maxkeys", 1000, Warn, "each container takes a key"},
		{"net/netfilter/nf_conntrack_max", 16384, Warn, "connections through Services; the rest is dropped"},
	}
}

func judgeSysctls(r *report, f facts) {
	good := 0
	for _, b := range bounds() {
		name := strings.ReplaceAll(b.sysctl, "/", ".")
		value, ok := f.sysctls[b.sysctl]
		n, err := strconv.ParseUint(value, 10, 64)
		if !ok || err != nil {
			continue // not in this kernel, or its module is not loaded yet
		}
		if n >= b.least {
			good++
			continue
		}
		r.add(b.lack, name, fmt.Sprintf("sysctl -w %s=%d, and in /etc/sysctl.d", name, b.least), "%d: %s", n, b.why)
	}
	if good > 0 {
		r.add(OK, "limits", "", "%d limits of the kernel are large enough", good)
	}
	for _, s := range []struct{ sysctl, want string }{
		{"net/ipv4/ip_forward", "1"}, {"net/bridge/bridge-nf-call-iptables", "1"},
		{"vm/overcommit_memory", "1"}, {"kernel/panic", "10"}, {"kernel/panic_on_oops", "1"},
	} {
		if value, ok := f.sysctls[s.sysctl]; ok && value != s.want {
			r.add(Info, strings.ReplaceAll(s.sysctl, "/", "."), "", "%s; limpet sets it to %s when it starts", value, s.want)
		}
	}
	if f.sysctls["vm/panic_on_oom"] == "1" || f.sysctls["vm/panic_on_oom"] == "2" {
		r.add(Warn, "vm.panic_on_oom", "sysctl -w vm.panic_on_oom=0", "the machine stops when memory is short")
	}
	switch v, ok := f.sysctls["user/max_user_namespaces"]; {
	case !f.ns["user"]:
		r.add(Info, "user namespaces", "", "not in this kernel: pods with hostUsers: false do not start")
	case ok && v == "0":
		r.add(Info, "user namespaces", "", "user.max_user_namespaces is 0: pods with hostUsers: false do not start")
	}
}
