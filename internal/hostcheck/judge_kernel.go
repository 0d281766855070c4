package hostcheck

import (
	"fmt"
	"slices"
	"strings"
)

// feature is something the kernel must or should be able to do.
type feature struct {
	name    string
	options []string          // configuration options, all needed; "A|B" is either
	modules map[string]string // module that provides an option
	probe   probe             // if it was tried for real, that decides
	lack    Verdict           // when it is missing
	remedy  string
}

// features lists what limpet needs of a kernel, beyond namespaces and control groups, which are
// seen directly. Sources: moby's check-config.sh and the kernels' Kconfig for the
// expressions that kube-proxy's nftables mode, flannel and the CNI plugins use.
func features() []feature {
	const rebuild = "use a kernel that has it; distributions often ship it in an extra package (linux-modules-extra-…, kernel-modules-extra, linux-image-…-generic)"
	return []feature{
		{
			name: "overlay file system", options: []string{"OVERLAY_FS"}, modules: map[string]string{"OVERLAY_FS": "overlay"},
			probe: probeOverlay, lack: Fail, remedy: rebuild + "; or put --data-dir on ext4 or xfs; or use --snapshotter native",
		},
		{
			name: "nftables", probe: probeNft, lack: Fail, remedy: rebuild,
			options: []string{"NF_TABLES", "NF_TABLES_IPV4|NF_TABLES_INET", "NF_CONNTRACK", "NFT_CT", "NFT_NAT", "NFT_MASQ", "NFT_REJECT", "NFT_NUMGEN", "NFT_FIB_IPV4|NFT_FIB_INET"},
			modules: map[string]string{
				"NF_TABLES": "nf_tables", "NF_CONNTRACK": "nf_conntrack", "NFT_CT": "nft_ct", "NFT_NAT": "nft_chain_nat", "NFT_MASQ": "nft_masq",
				"NFT_REJECT": "nft_reject", "NFT_NUMGEN": "nft_numgen", "NFT_FIB_IPV4": "nft_fib_ipv4", "NFT_FIB_INET": "nft_fib_inet",
			},
		},
		{name: "bridge", options: []string{"BRIDGE"}, modules: map[string]string{"BRIDGE": "bridge"}, probe: probeBridge, lack: Fail, remedy: rebuild},
		{name: "veth", options: []string{"VETH"}, modules: map[string]string{"VETH": "veth"}, probe: probeVeth, lack: Fail, remedy: rebuild},
		{
			name: "bridge netfilter", options: []string{"BRIDGE_NETFILTER"}, modules: map[string]string{"BRIDGE_NETFILTER": "br_netfilter"},
			lack: Fail, remedy: rebuild + "; without it a pod cannot reach a Service whose pod is on the same node",
		},
		{
			name: "vxlan", options: []string{"VXLAN"}, modules: map[string]string{"VXLAN": "vxlan"}, probe: probeVXLAN,
			lack: Warn, remedy: rebuild + "; a single node, or nodes in one layer 2 network, can use --flannel-backend host-gw",
		},
		{name: "seccomp", options: []string{"SECCOMP", "SECCOMP_FILTER"}, lack: Warn, remedy: "containers run without system call filters: " + rebuild},
		{name: "CPU limits", options: []string{"FAIR_GROUP_SCHED", "CFS_BANDWIDTH"}, lack: Warn, remedy: "CPU limits of pods are not enforced: " + rebuild},
		{name: "POSIX message queues", options: []string{"POSIX_MQUEUE"}, lack: Fail, remedy: "every container mounts one: " + rebuild},
		{name: "key rings", options: []string{"KEYS"}, lack: Warn, remedy: rebuild},
		{name: "eBPF for devices", options: []string{"BPF_SYSCALL", "CGROUP_BPF"}, lack: Warn, remedy: "control groups version 2 cannot restrict devices: " + rebuild},
		{
			name: "traffic shaping", options: []string{"NET_SCH_TBF", "IFB"}, modules: map[string]string{"NET_SCH_TBF": "sch_tbf", "IFB": "ifb"},
			lack: Info, remedy: "",
		},
	}
}

func judgeKernel(r *report, f facts) {
	r.add(OK, "version", "", "%s", f.host.KernelVersion)
	if f.kernel.configSource == "" {
		r.add(Info, "configuration", "", "not found; modules and trials decide")
	} else {
		r.add(OK, "configuration", "", "%s", f.kernel.configSource)
	}
	var missing []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if !f.ns[ns] {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		r.add(Fail, "namespaces", "use a kernel with CONFIG_NAMESPACES and its parts", "missing: %s", strings.Join(missing, ", "))
	} else {
		r.add(OK, "namespaces", "", "cgroup ipc mnt net pid uts%s", ifHas(f.ns["user"], " user"))
	}
	for _, ft := range features() {
		judgeFeature(r, ft, f)
	}
}

func judgeFeature(r *report, ft feature, f facts) {
	state, known, missing := f.kernel.state(ft)
	if res, tried := f.probes[ft.probe]; ft.probe != "" && tried {
		if res.err == "" {
			r.add(OK, ft.name, "", "%s", cmpString(res.detail, "works"))
			return
		}
		detail := res.err
		if len(missing) > 0 {
			detail += " (" + strings.Join(missing, ", ") + ")"
		}
		r.add(ft.lack, ft.name, ft.remedy, "%s", detail)
		return
	}
	switch {
	case len(missing) > 0:
		r.add(ft.lack, ft.name, ft.remedy, "%s", strings.Join(missing, ", "))
	case known:
		r.add(OK, ft.name, "", "%s", state)
	case ft.lack == Info:
		r.add(Info, ft.name, "", "cannot be told")
	default:
		r.add(Warn, ft.name, "run check-config as root, or make the kernel's configuration readable (modprobe configs)", "cannot be told without the kernel's configuration")
	}
}

// state tells how the kernel provides a feature. missing lists what it surely
// lacks; known is false when an option could not be decided.
func (k kernel) state(ft feature) (state string, known bool, missing []string) {
	known = true
	var how []string
	for _, either := range ft.options {
		var lacking []string
		found := false
		for option := range strings.SplitSeq(either, "|") {
			s, why := k.option(option, ft.modules[option])
			if s != "" {
				found = true
				if !slices.Contains(how, s) {
					how = append(how, s)
				}
				break
			}
			if why == "" {
				known = false
			} else {
				lacking = append(lacking, why)
			}
		}
		if !found && len(lacking) > 0 {
			missing = append(missing, lacking[0])
		}
	}
	return strings.Join(how, ", "), known, missing
}

// option tells how an option is provided (built in, module loaded, module), or
// why it is not; both are empty when that is unknown.
func (k kernel) option(name, module string) (how, why string) {
	switch {
	case module != "" && k.loaded[module]:
		return "loaded", ""
	case module != "" && k.builtin[module]:
		return "built in", ""
	}
	value := k.config[name]
	switch {
	case value == "y":
		return "built in", ""
	case value == "m" && (module == "" || k.loadable[module]):
		return "module", ""
	case value == "m" && len(k.loadable) == 0:
		return "", fmt.Sprintf("CONFIG_%s is a module, and the modules of this kernel are not installed", name)
	case value == "m":
		return "", fmt.Sprintf("CONFIG_%s is a module, and module %s is not installed", name, module)
	case k.config != nil:
		return "", fmt.Sprintf("CONFIG_%s is not set", name)
	case module != "" && k.loadable[module]:
		return "module", ""
	}
	return "", ""
}

func ifHas(has bool, s string) string {
	if has {
		return s
	}
	return ""
}

func cmpString(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
