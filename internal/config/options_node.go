package config

import "net/netip"

func nodeOptions() []Option {
	all := identityOptions()
	all = append(all, runtimeOptions()...)
	for i := range all {
		all[i].Commands = ForBoth
	}
	return all
}

func identityOptions() []Option {
	return []Option{
		{
			Name: "node-name", Group: groupNode, Value: "NAME", Default: "the host name",
			Usage:   "Name of the Node object.",
			binding: stringAt(func(s *Server) *string { return &s.NodeName }),
		},
		{
			Name: "with-node-id", Group: groupNode,
			Usage:   "Append an identifier, kept on this machine, to the node name.",
			binding: boolAt(func(s *Server) *bool { return &s.WithNodeID }),
		},
		{
			Name: "node-label", Group: groupNode, Value: "KEY=VALUE",
			Usage:   "Labels the node registers with.",
			binding: listAt(func(s *Server) *[]string { return &s.NodeLabels }),
		},
		{
			Name: "node-taint", Group: groupNode, Value: "KEY=VALUE:EFFECT",
			Usage:   "Taints the node registers with; EFFECT is NoSchedule, PreferNoSchedule or NoExecute.",
			binding: listAt(func(s *Server) *[]string { return &s.NodeTaints }),
		},
		{
			Name: "node-ip", Aliases: []string{"i"}, Group: groupNode, Value: "ADDRESS", Default: "the address of the default route's interface",
			Usage:   "Address of the node inside the cluster; at most one of each family.",
			binding: addrsAt(func(s *Server) *[]netip.Addr { return &s.NodeIP }),
		},
		{
			Name: "node-external-ip", Group: groupNode, Value: "ADDRESS",
			Usage:   "Address at which the node is reached from outside the cluster, for its certificates and its Node; at most one of each family.",
			binding: addrsAt(func(s *Server) *[]netip.Addr { return &s.NodeExternalIP }),
		},
		{
			Name: "resolv-conf", Group: groupNode, Value: "FILE", Default: "found by looking",
			Usage:   "resolv.conf with the nameservers for pods and for the cluster's DNS.",
			binding: stringAt(func(s *Server) *string { return &s.ResolvConf }),
		},
		{
			Name: "disable-node-local-dns", Group: groupNode,
			Usage:   "Run no DNS server on this node; its pods use those of other nodes.",
			binding: boolAt(func(s *Server) *bool { return &s.DisableNodeLocalDNS }),
		},
		{
			Name: "flannel-iface", Group: groupNode, Value: "INTERFACE", Default: "the interface of the node address",
			Usage:   "Network interface that carries traffic between nodes.",
			binding: stringAt(func(s *Server) *string { return &s.FlannelIface }),
		},
		{
			Name: "protect-kernel-defaults", Group: groupNode,
			Usage:   "Fail instead of changing kernel settings that differ from what the kubelet wants.",
			binding: boolAt(func(s *Server) *bool { return &s.ProtectKernelDefaults }),
		},
	}
}

func runtimeOptions() []Option {
	return []Option{
		{
			Name: "private-registry", Group: groupRuntime, Value: "FILE", Default: DefaultPrivateRegistry,
			Usage:   "Registry mirrors, rewrites, credentials and TLS settings.",
			binding: stringAt(func(s *Server) *string { return &s.PrivateRegistry }),
		},
		{
			Name: "disable-default-registry-endpoint", Group: groupRuntime,
			Usage:   "Do not fall back to the registry named in the image when all its mirrors failed.",
			binding: boolAt(func(s *Server) *bool { return &s.DisableDefaultRegistryEndpoint }),
		},
		{
			Name: "snapshotter", Group: groupRuntime, Value: "NAME", Default: "overlayfs",
			Usage:   "containerd snapshotter.",
			binding: stringAt(func(s *Server) *string { return &s.Snapshotter }),
		},
		{
			Name: "pause-image", Group: groupRuntime, Value: "IMAGE", Default: DefaultPauseImage,
			Usage:   "Image of the pod sandbox; the default one is inside the binary.",
			binding: stringAt(func(s *Server) *string { return &s.PauseImage }),
		},
		{
			Name: "default-runtime", Group: groupRuntime, Value: "NAME", Default: "runc",
			Usage:   "containerd runtime for pods without a RuntimeClass.",
			binding: stringAt(func(s *Server) *string { return &s.DefaultRuntime }),
		},
		{
			Name: "container-runtime-endpoint", Group: groupRuntime, Value: "SOCKET",
			Usage:   "CRI socket of a container runtime of your own, instead of the built-in containerd.",
			binding: stringAt(func(s *Server) *string { return &s.ContainerRuntimeEndpoint }),
		},
	}
}

func argOptions() []Option {
	return []Option{
		passThrough("kube-apiserver", ForServer, func(s *Server) *[]string { return &s.KubeAPIServerArgs }),
		passThrough("kube-controller-manager", ForServer, func(s *Server) *[]string { return &s.KubeControllerManagerArgs }),
		passThrough("kube-scheduler", ForServer, func(s *Server) *[]string { return &s.KubeSchedulerArgs }),
		passThrough("kubelet", ForBoth, func(s *Server) *[]string { return &s.KubeletArgs }),
		passThrough("kube-proxy", ForBoth, func(s *Server) *[]string { return &s.KubeProxyArgs }),
	}
}

func passThrough(component string, commands Command, field func(*Server) *[]string) Option {
	return Option{
		Name: component + "-arg", Group: groupArgs, Commands: commands, Value: "NAME=VALUE", KeepCommas: true,
		Usage:   "Flag for " + component + ", without the leading dashes.",
		binding: listAt(field),
	}
}
