package config

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletapis "k8s.io/kubelet/pkg/apis"
)

// maxInterfaceName is the kernel's IFNAMSIZ without the closing zero.
const maxInterfaceName = 15

func (n *Node) validateNode(p *problems) {
	p.dataDir(n.DataDir)
	if n.Verbosity < 0 {
		p.add("v", "%d is below zero", n.Verbosity)
	}
	if n.Token != "" && n.TokenFile != "" {
		p.add("token-file", "and token are both given; give one of them")
	}
	if errs := validation.IsDNS1123Subdomain(n.NodeName); len(errs) > 0 {
		p.add("node-name", "%q cannot name a node: %s", n.NodeName, errs[0])
	}
	p.labels(n.NodeLabels)
	p.taints(n.NodeTaints)
	p.onePerFamily("node-ip", n.NodeIP)
	p.onePerFamily("node-external-ip", n.NodeExternalIP)
	for _, a := range n.NodeIP {
		p.reachable("node-ip", a)
	}
	for _, a := range n.NodeExternalIP {
		p.reachable("node-external-ip", a)
	}
	if len(n.FlannelIface) > maxInterfaceName || strings.ContainsAny(n.FlannelIface, "/ \t") {
		p.add("flannel-iface", "%q is not the name of an interface", n.FlannelIface)
	}
	p.absolute("token-file", n.TokenFile)
	p.absolute("resolv-conf", n.ResolvConf)
	p.absolute("private-registry", n.PrivateRegistry)
	p.absolute("container-runtime-endpoint", strings.TrimPrefix(n.ContainerRuntimeEndpoint, "unix://"))
	p.args("kubelet-arg", n.KubeletArgs)
	p.args("kube-proxy-arg", n.KubeProxyArgs)
}

func (p *problems) dataDir(dir string) {
	p.absolute("data-dir", dir)
	if strings.Trim(dir, "/") == "" {
		p.add("data-dir", "%q would fill the root directory", dir)
	}
}

func (p *problems) labels(labels []string) {
	seen := map[string]bool{}
	for _, label := range labels {
		key, value, ok := strings.Cut(label, "=")
		if !ok {
			p.add("node-label", "%q is not of the form KEY=VALUE", label)
			continue
		}
		for _, e := range validation.IsQualifiedName(key) {
			p.add("node-label", "%q has a wrong key: %s", label, e)
		}
		for _, e := range validation.IsValidLabelValue(value) {
			p.add("node-label", "%q has a wrong value: %s", label, e)
		}
		if seen[key] {
			p.add("node-label", "%q is given twice", key)
		}
		seen[key] = true
		if isKubernetesLabel(key) && !kubeletapis.IsKubeletLabel(key) {
			p.add("node-label", "%q: a node may not give itself this label; set it with kubectl label node, or use a key under %s",
				label, strings.Join(kubeletapis.KubeletLabelNamespaces(), " or "))
		}
	}
}

// isKubernetesLabel reports whether the key is reserved for Kubernetes; the
// kubelet's function of this name (cmd/kubelet/app/options) is not exported.
func isKubernetesLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	return slices.ContainsFunc([]string{"kubernetes.io", "k8s.io"}, func(reserved string) bool {
		return domain == reserved || strings.HasSuffix(domain, "."+reserved)
	})
}

// taints checks what k8s.io/kubernetes/pkg/util/taints checks, which to import
// would link the internal API types into every user of this package.
func (p *problems) taints(taints []string) {
	effects := []string{string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute)}
	seen := map[string]bool{}
	for _, taint := range taints {
		spec, effect, ok := strings.Cut(taint, ":")
		if !ok {
			p.add("node-taint", "%q is not of the form KEY=VALUE:EFFECT", taint)
			continue
		}
		if !slices.Contains(effects, effect) {
			p.add("node-taint", "%q: effect %q is not one of %s%s", taint, effect,
				strings.Join(effects, ", "), didYouMean(Suggest(effect, effects)))
		}
		key, value, _ := strings.Cut(spec, "=")
		for _, e := range validation.IsQualifiedName(key) {
			p.add("node-taint", "%q has a wrong key: %s", taint, e)
		}
		for _, e := range validation.IsValidLabelValue(value) {
			p.add("node-taint", "%q has a wrong value: %s", taint, e)
		}
		if seen[key+":"+effect] {
			p.add("node-taint", "%s:%s is given twice", key, effect)
		}
		seen[key+":"+effect] = true
	}
}
