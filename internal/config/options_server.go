package config

import (
	"net/netip"
	"os"
)

const (
	groupCommon     = "General"
	groupListen     = "API server"
	groupNetwork    = "Cluster network"
	groupKubeconfig = "Admin kubeconfig"
	groupCluster    = "Cluster membership"
	groupComponents = "Components"
	groupSnapshots  = "Snapshots of the datastore"
	groupAudit      = "Audit log"
	groupNode       = "Node"
	groupRuntime    = "Container runtime"
	groupArgs       = "Arguments passed through to Kubernetes components"
)

// Where things are unless an option says otherwise.
const (
	DefaultConfigFile      = "/etc/limpet/config.yaml"
	DefaultDataDir         = "/var/lib/limpet"
	DefaultKubeconfig      = "/etc/limpet/limpet.yaml"
	DefaultPrivateRegistry = "/etc/limpet/registries.yaml"
)

func commonOptions() []Option {
	return []Option{
		{
			Name: "config", Aliases: []string{"c"}, Env: "LIMPET_CONFIG_FILE", Group: groupCommon, Commands: ForBoth,
			Value: "FILE", Default: DefaultConfigFile, NotInFile: true,
			Usage:   "Config file. FILE.d/*.yaml and *.yml are read after it, in alphabetical order. A file named here must exist.",
			binding: configFileBinding(),
		},
		{
			Name: "data-dir", Aliases: []string{"d"}, Group: groupCommon, Commands: ForBoth,
			Value: "DIR", Default: DefaultDataDir,
			Usage:   "Directory of all persistent state.",
			binding: stringAt(func(s *Server) *string { return &s.DataDir }),
		},
		{
			Name: "debug", Group: groupCommon, Commands: ForBoth,
			Usage:   "Log limpet's own parts at debug level.",
			binding: boolAt(func(s *Server) *bool { return &s.Debug }),
		},
		{
			Name: "v", Group: groupCommon, Commands: ForBoth,
			Value: "LEVEL", Default: "0",
			Usage:   "Verbosity of the Kubernetes components (klog level).",
			binding: intAt(func(s *Server) *int { return &s.Verbosity }),
		},
		{
			Name: "token", Aliases: []string{"t"}, Group: groupCluster, Commands: ForBoth,
			Value: "TOKEN", Secret: true,
			Usage:   "Secret with which machines join: on an agent as limpet token create prints it, on a new server one that is to be used instead of a generated one (limpet token generate makes it). On a command line every user of the machine can read it: prefer token-file.",
			binding: stringAt(func(s *Server) *string { return &s.Token }),
		},
		{
			Name: "token-file", Group: groupCluster, Commands: ForBoth,
			Value:   "FILE",
			Usage:   "File that holds the token.",
			binding: stringAt(func(s *Server) *string { return &s.TokenFile }),
		},
		{
			Name: "server", Aliases: []string{"s"}, Env: "LIMPET_URL", Group: groupCluster, Commands: ForAgent,
			Value:   "URL",
			Usage:   "Server to join, as https://HOST:6443.",
			binding: stringAt(func(s *Server) *string { return &s.ServerURL }),
		},
	}
}

// configFileBinding has no field: Load consumes the option before any field exists.
func configFileBinding() binding {
	return binding{
		Kind: String,
		set:  func(*Server, []string) error { return nil },
		get:  func(*Server) []string { return nil },
	}
}

func serverOptions() []Option {
	all := listenOptions()
	all = append(all, networkOptions()...)
	all = append(all, kubeconfigOptions()...)
	all = append(all, componentOptions()...)
	all = append(all, snapshotOptions()...)
	for i := range all {
		all[i].Commands = ForServer
	}
	return all
}

func listenOptions() []Option {
	return []Option{
		{
			Name: "bind-address", Group: groupListen, Value: "ADDRESS", Default: "0.0.0.0, or :: when services are IPv6 only",
			Usage:   "Address the API server listens on.",
			binding: addrAt(func(s *Server) *netip.Addr { return &s.BindAddress }),
		},
		{
			Name: "https-listen-port", Group: groupListen, Value: "PORT", Default: "6443",
			Usage:   "Port the API server listens on.",
			binding: intAt(func(s *Server) *int { return &s.HTTPSListenPort }),
		},
		{
			Name: "advertise-address", Group: groupListen, Value: "ADDRESS", Default: "the node address",
			Usage:   "Address under which pods and other nodes reach the API server.",
			binding: addrAt(func(s *Server) *netip.Addr { return &s.AdvertiseAddress }),
		},
		{
			Name: "tls-san", Group: groupListen, Value: "NAME",
			Usage:   "Further host names or addresses for the API server's certificate.",
			binding: listAt(func(s *Server) *[]string { return &s.TLSSANs }),
		},
	}
}

func networkOptions() []Option {
	return []Option{
		{
			Name: "cluster-cidr", Group: groupNetwork, Value: "RANGE", Default: "10.42.0.0/16 (IPv6: fd00:42::/56)",
			Usage:   "Address range of pods; one of each family for dual stack.",
			binding: prefixesAt(func(s *Server) *[]netip.Prefix { return &s.ClusterCIDR }),
		},
		{
			Name: "service-cidr", Group: groupNetwork, Value: "RANGE", Default: "10.43.0.0/16 (IPv6: fd00:43::/112)",
			Usage:   "Address range of Services; one of each family for dual stack.",
			binding: prefixesAt(func(s *Server) *[]netip.Prefix { return &s.ServiceCIDR }),
		},
		{
			Name: "service-node-port-range", Group: groupNetwork, Value: "LOW-HIGH", Default: "30000-32767",
			Usage:   "Ports for Services of type NodePort.",
			binding: stringAt(func(s *Server) *string { return &s.ServiceNodePortRange }),
		},
		{
			Name: "cluster-dns", Group: groupNetwork, Value: "ADDRESS", Default: "the tenth address of service-cidr",
			Usage:   "Address of the cluster's DNS Service; one of each family for dual stack.",
			binding: addrsAt(func(s *Server) *[]netip.Addr { return &s.ClusterDNS }),
		},
		{
			Name: "cluster-domain", Group: groupNetwork, Value: "DOMAIN", Default: "cluster.local",
			Usage:   "DNS domain of the cluster.",
			binding: stringAt(func(s *Server) *string { return &s.ClusterDomain }),
		},
		{
			Name: "flannel-backend", Group: groupNetwork, Value: "NAME", Default: FlannelVXLAN,
			Values:  FlannelBackends(),
			Usage:   "How pods of different nodes reach each other: vxlan, host-gw (nodes share one network), or none (you install a network yourself).",
			binding: stringAt(func(s *Server) *string { return &s.FlannelBackend }),
		},
		{
			Name: "flannel-external-ip", Group: groupNetwork,
			Usage:   "Nodes reach each other at their node-external-ip, for nodes in different networks; with vxlan. The traffic is not encrypted.",
			binding: boolAt(func(s *Server) *bool { return &s.FlannelExternalIP }),
		},
	}
}

func kubeconfigOptions() []Option {
	return []Option{
		{
			Name: "write-kubeconfig", Aliases: []string{"o"}, Env: "LIMPET_KUBECONFIG_OUTPUT", Group: groupKubeconfig,
			Value: "FILE", Default: DefaultKubeconfig,
			Usage:   "Where the administrator's kubeconfig is written.",
			binding: stringAt(func(s *Server) *string { return &s.WriteKubeconfig }),
		},
		{
			Name: "write-kubeconfig-mode", Env: "LIMPET_KUBECONFIG_MODE", Group: groupKubeconfig, Value: "MODE", Default: "0600",
			Usage:   "Its octal file mode. Whoever can read the file rules the cluster.",
			binding: modeAt(func(s *Server) *os.FileMode { return &s.WriteKubeconfigMode }),
		},
		{
			Name: "write-kubeconfig-group", Env: "LIMPET_KUBECONFIG_GROUP", Group: groupKubeconfig, Value: "GROUP",
			Usage:   "Its group, by name or number; give it a mode such as 0640 too.",
			binding: stringAt(func(s *Server) *string { return &s.WriteKubeconfigGroup }),
		},
	}
}

func componentOptions() []Option {
	return []Option{
		{
			Name: "disable", Group: groupComponents, Value: "NAME", Values: PackagedComponents(),
			Usage:   "Packaged components that are not deployed, and are removed if they were: coredns.",
			binding: listAt(func(s *Server) *[]string { return &s.Disable }),
		},
		{
			Name: "disable-agent", Group: groupComponents,
			Usage:   "Run the control plane only, without a node on this machine.",
			binding: boolAt(func(s *Server) *bool { return &s.DisableAgent }),
		},
		{
			Name: "disable-scheduler", Group: groupComponents,
			Usage:   "Do not run kube-scheduler.",
			binding: boolAt(func(s *Server) *bool { return &s.DisableScheduler }),
		},
		{
			Name: "disable-controller-manager", Group: groupComponents,
			Usage:   "Do not run kube-controller-manager.",
			binding: boolAt(func(s *Server) *bool { return &s.DisableControllerManager }),
		},
		{
			Name: "disable-kube-proxy", Group: groupComponents,
			Usage:   "Do not run kube-proxy; Services then need another implementation.",
			binding: boolAt(func(s *Server) *bool { return &s.DisableKubeProxy }),
		},
		{
			Name: "audit-log-path", Group: groupAudit, Value: "FILE",
			Usage:   "Write the API server's audit log to FILE; - is standard output. Empty: no audit log.",
			binding: stringAt(func(s *Server) *string { return &s.AuditLogPath }),
		},
		{
			Name: "audit-policy-file", Group: groupAudit, Value: "FILE", Default: "a built-in policy that logs metadata",
			Usage:   "Audit policy (audit.k8s.io/v1 Policy).",
			binding: stringAt(func(s *Server) *string { return &s.AuditPolicyFile }),
		},
	}
}
