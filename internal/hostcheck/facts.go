package hostcheck

import (
	"net/netip"
	"time"
)

// facts is everything that the judges look at. A nil pointer, an absent key or
// an empty string means that it could not be found out.
type facts struct {
	mode    string // server or agent
	dataDir string

	host    Host
	root    bool // effective user id 0
	caps    capabilities
	kernel  kernel
	probes  map[probe]probeResult
	sysctls map[string]string // by path below /proc/sys
	ns      map[string]bool   // namespaces of the kernel, as /proc/self/ns lists them
	disk    *disk
	memory  memory
	clock   clock
	network network
	system  system
}

// kernel says what the running kernel can do.
type kernel struct {
	config       map[string]string // CONFIG_ name without prefix: y, m or a value
	configSource string            // file the config was read from; empty: none found
	loaded       map[string]bool   // modules in /proc/modules and /sys/module
	loadable     map[string]bool   // modules that modprobe would find
	builtin      map[string]bool   // modules compiled in
}

// probe is something that was tried for real.
type probe string

const (
	probeOverlay probe = "overlay"
	probeBridge  probe = "bridge"
	probeVeth    probe = "veth"
	probeVXLAN   probe = "vxlan"
	probeNft     probe = "nft"
)

// probeResult is how a probe went. One that could not be tried at all (no
// privilege, no nft) is not in facts.probes, so that the configuration decides.
type probeResult struct {
	err    string // empty: it works
	detail string // e.g. the version of nft
}

// disk describes the file system that holds, or will hold, the data directory.
type disk struct {
	path               string // nearest existing directory
	mountPoint, fsType string
	readOnly, noExec   bool
	total, free        uint64 // bytes; free for unprivileged users, as the kubelet counts
	inodes, inodesFree uint64 // 0 inodes: the file system makes them as needed
	writable           bool
	writeErr           string
}

type memory struct {
	total, available, swap uint64 // bytes
}

type clock struct {
	now          time.Time
	synchronised *bool
	rtc          bool
}

type network struct {
	hostname     string
	nameservers  []netip.Addr
	defaultRoute bool
	ports        []port
	runningHere  bool // limpet itself runs and holds the ports
}

// port is one that limpet listens on.
type port struct {
	proto  string // tcp or udp
	number int
	use    string
	err    string // why it cannot be listened on; empty: free
}

type system struct {
	init         string // systemd, openrc, or the name of process 1
	container    string // runtime that this runs in; empty: none
	virtual      bool   // in a virtual machine
	model        string // of board or machine
	selinux      string // enforcing, permissive or empty
	apparmor     bool
	apparmorTool bool   // apparmor_parser is installed
	firewall     string // ufw, firewalld or empty
	docker       bool
	cpus         int
	randomReady  bool
}
