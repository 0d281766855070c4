package config

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// loadFlags is a completed server or agent configuration from name=value pairs.
func loadFlags(t *testing.T, command Command, flags ...string) *Loaded {
	t.Helper()
	in := Input{Command: command, Flags: map[string][]string{}}
	for _, f := range flags {
		name, value, _ := strings.Cut(f, "=")
		in.Flags[name] = append(in.Flags[name], value)
	}
	l, err := Load(in)
	if err := errors.Join(err, l.Complete(host)); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestComplete(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                                  string
		flags                                 []string
		cluster, service, dns, bind, nodeName string
	}{
		{"nothing given", nil, "10.42.0.0/16", "10.43.0.0/16", "10.43.0.10", "0.0.0.0", "box-7.example.com"},
		{"service range", []string{"service-cidr=10.96.0.0/20"}, "10.42.0.0/16", "10.96.0.0/20", "10.96.0.10", "0.0.0.0", "box-7.example.com"},
		{"IPv6 service range", []string{"service-cidr=fd00:9::/112"}, "fd00:42::/56", "fd00:9::/112", "fd00:9::a", "::", "box-7.example.com"},
		{"IPv6 cluster range", []string{"cluster-cidr=fd00:9::/56"}, "fd00:9::/56", "fd00:43::/112", "fd00:43::a", "::", "box-7.example.com"},
		{"IPv6 node", []string{"node-ip=fd00::1"}, "fd00:42::/56", "fd00:43::/112", "fd00:43::a", "::", "box-7.example.com"},
		{"dual-stack node", []string{"node-ip=10.0.0.1,fd00::1"}, "10.42.0.0/16 fd00:42::/56", "10.43.0.0/16 fd00:43::/112", "10.43.0.10 fd00:43::a", "0.0.0.0", "box-7.example.com"},
		{"dual stack, IPv6 first", []string{"cluster-cidr=fd00:42::/56,10.42.0.0/16"}, "fd00:42::/56 10.42.0.0/16", "fd00:43::/112 10.43.0.0/16", "fd00:43::a 10.43.0.10", "0.0.0.0", "box-7.example.com"},
		{"own choices", []string{"cluster-dns=10.43.1.1", "bind-address=10.0.0.1", "node-name=n"}, "10.42.0.0/16", "10.43.0.0/16", "10.43.1.1", "10.0.0.1", "n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := loadFlags(t, ForServer, c.flags...)
			s := &l.Server
			got := []string{join(s.ClusterCIDR), join(s.ServiceCIDR), join(s.ClusterDNS), s.BindAddress.String(), s.NodeName}
			if want := []string{c.cluster, c.service, c.dns, c.bind, c.nodeName}; !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			if err := l.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
		})
	}
}

func join[T interface{ String() string }](list []T) string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return strings.Join(out, " ")
}

func TestCompleteWithoutHostName(t *testing.T) {
	t.Parallel()
	broken := func() (string, error) { return "", errors.New("no such file") }
	if err := new(Server).Complete(broken); err == nil || !strings.Contains(err.Error(), "--node-name") {
		t.Errorf("error %v does not say what to do", err)
	}
	if err := (&Server{Node: Node{NodeName: "n"}}).Complete(broken); err != nil {
		t.Errorf("a given name needs no host name: %v", err)
	}
}

func TestNth(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ r, want string }{
		{"10.43.0.0/16", "10.43.0.10"},
		{"10.43.0.0/28", "10.43.0.10"},
		{"10.43.0.0/29", "invalid IP"},
		{"255.255.255.252/30", "invalid IP"},
		{"fd00::/112", "fd00::a"},
	} {
		if got := nth(netip.MustParsePrefix(c.r), 10).String(); got != c.want {
			t.Errorf("tenth of %s: %s, want %s", c.r, got, c.want)
		}
	}
}

func TestValidServer(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{
		{"cluster-cidr=10.42.0.0/24"}, // one node
		{"cluster-cidr=10.42.0.0/26", "kube-controller-manager-arg=node-cidr-mask-size=26"},
		{"cluster-cidr=10.42.0.0/26", "kube-controller-manager-arg=--node-cidr-mask-size-ipv4=26"},
		{"cluster-cidr=fd00::/48"}, {"cluster-cidr=fd00::/64"},
		{"service-cidr=10.0.0.0/12", "cluster-cidr=10.42.0.0/16"},
		{"service-cidr=10.43.0.0/29", "cluster-dns=10.43.0.7"},
		{"service-cidr=fd00::/108"},
		{"cluster-dns=10.43.0.2"},
		{"service-node-port-range=80-32767"}, {"service-node-port-range=30000+100"},
		{"advertise-address=192.0.2.1"}, {"https-listen-port=1"}, {"https-listen-port=65535"},
		{"tls-san=a.example.com,*.example.com,10.0.0.1,::1,LOCALHOST"},
		{"write-kubeconfig-mode=400"}, {"audit-log-path=-"}, {"audit-policy-file=/p", "audit-log-path=/var/log/audit"},
		{"audit-policy-file=/p", "kube-apiserver-arg=audit-webhook-config-file=/w"},
		{"node-label=site=harbour,empty=,node.kubernetes.io/shop=17,topology.kubernetes.io/zone=a,node-role.example.com/x=y,kubernetes.io/hostname=b"},
		{"node-taint=a=b:NoSchedule,a=b:NoExecute,key:PreferNoSchedule"},
		{"container-runtime-endpoint=/run/cri.sock"}, {"container-runtime-endpoint=unix:///run/cri.sock"},
		{"kubelet-arg=--max-pods=200", "kube-proxy-arg=masquerade-all"},
		{"snapshot-schedule=@daily"}, {"snapshot-schedule=off"}, {"snapshot-schedule=0 */12 * * *", "snapshot-retention=1"},
		{"snapshot-s3=true", "snapshot-s3-bucket=b", "snapshot-s3-endpoint=s3.example.com:9000", "snapshot-s3-insecure=true"},
		{"disable=coredns"}, {"flannel-backend=none"}, {"node-ip=169.254.1.1"},
	} {
		if err := loadFlags(t, ForServer, flags...).Validate(); err != nil {
			t.Errorf("%q: %v", flags, err)
		}
	}
}

func TestInvalidServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flags, want string }{
		// Listening.
		{"https-listen-port=0", ""}, // zero is "not given"
		{"https-listen-port=-1", "https-listen-port: -1 is not a port"},
		{"https-listen-port=65536", "https-listen-port: 65536 is not a port"},
		{"advertise-address=127.0.0.1", "advertise-address: 127.0.0.1 is a loopback address"},
		{"advertise-address=0.0.0.0", "advertise-address: 0.0.0.0 stands for all addresses"},
		{"advertise-address=224.0.0.1", "advertise-address: 224.0.0.1 is a multicast address"},
		{"advertise-address=fd00::1", "advertise-address: fd00::1 must be IPv4"},
		{"advertise-address=10.42.0.1", "advertise-address: 10.42.0.1 lies inside cluster-cidr 10.42.0.0/16"},
		{"tls-san=not_a_name", `tls-san: "not_a_name" is neither an IP address nor a host name`},
		// Ranges.
		{"cluster-cidr=10.43.0.0/17", "service-cidr: 10.43.0.0/16 overlaps cluster-cidr 10.43.0.0/17"},
		{"cluster-cidr=10.42.0.0/25", "cluster-cidr: 10.42.0.0/25 is too small: a node takes a /24 of it"},
		{"cluster-cidr=fd00::/65", "cluster-cidr: fd00::/65 is too small: a node takes a /64 of it"},
		{"cluster-cidr=fd00::/47", "cluster-cidr: fd00::/47 is too large: with a /64 per node it can be a /48 at most"},
		{"cluster-cidr=10.42.0.0/16 kube-controller-manager-arg=node-cidr-mask-size=8", "a node takes a /8"},
		{"cluster-cidr=10.42.0.0/16,10.44.0.0/16", "cluster-cidr: has 2 ranges; one IPv4 and one IPv6 range are the most"},
		{"service-cidr=10.0.0.0/11 cluster-cidr=192.168.0.0/16", "service-cidr: 10.0.0.0/11 is too large: the API server takes a /12 at most"},
		{"service-cidr=fd00::/107", "service-cidr: fd00::/107 is too large: the API server takes a /108 at most"},
		{"service-cidr=10.43.0.0/30 cluster-dns=10.43.0.3", "service-cidr: 10.43.0.0/30 is too small"},
		{"service-cidr=10.43.0.0/29", "cluster-dns: is needed: service-cidr 10.43.0.0/29 has no tenth address"},
		{"service-cidr=10.43.0.0/16 cluster-cidr=fd00::/56", "service-cidr: has the families IPv4 and cluster-cidr has IPv6"},
		{"service-cidr=10.43.0.0/16 cluster-cidr=10.42.0.0/16,fd00::/56", "cluster-cidr has IPv4+IPv6"},
		{"service-cidr=10.43.0.0/16,fd00:1::/112 cluster-cidr=fd00::/56,10.42.0.0/16", "in the same order"},
		{"cluster-dns=10.44.0.10", "cluster-dns: 10.44.0.10 is not inside service-cidr 10.43.0.0/16"},
		{"cluster-dns=10.43.0.0", "cluster-dns: 10.43.0.0 is the address of the range itself"},
		{"cluster-dns=10.43.0.1", "cluster-dns: 10.43.0.1 is taken"},
		{"cluster-dns=10.43.0.2,10.43.0.3", "cluster-dns: has more than one IPv4 address"},
		{"cluster-domain=Cluster_Local", `cluster-domain: "Cluster_Local" is not a domain name`},
		{"flannel-external-ip=true flannel-backend=host-gw", "flannel-external-ip: needs the flannel-backend vxlan"},
		{"flannel-backend=wireguard-native", `flannel-backend: "wireguard-native" is not one of vxlan, host-gw, none`},
		{"service-node-port-range=32767", ""}, // a single port is a range
		{"service-node-port-range=32767-30000", "service-node-port-range: "},
		{"service-node-port-range=30000-70000", "service-node-port-range: "},
		{"service-node-port-range=a-b", `service-node-port-range: "a-b" is not a range of ports`},
		{"service-node-port-range=0", `service-node-port-range: "0" holds no usable port`},
		// Files and components.
		{"write-kubeconfig=limpet.yaml", `write-kubeconfig: "limpet.yaml" is not an absolute path`},
		{"write-kubeconfig-mode=044", "write-kubeconfig-mode: 0044 does not let its owner read the file"},
		{"disable=corends", `disable: "corends" is not a packaged component; did you mean coredns?`},
		{"disable=traefik", `disable: "traefik" is not a packaged component (there are: coredns, upgrade-plans)`},
		{"audit-log-path=audit.log", `audit-log-path: "audit.log" is not an absolute path`},
		// Snapshots.
		{"snapshot-schedule=every day", "snapshot-schedule: snapshot schedule \"every day\""},
		{"snapshot-schedule=1s", "the period is shorter than 1m0s"},
		{"snapshot-retention=-1", "snapshot-retention: -1 is not a number of snapshots to keep"},
		{"snapshot-dir=here", "snapshot-dir: \"here\" is not an absolute path"},
		{"snapshot-s3=true", "snapshot-s3-bucket: is needed with snapshot-s3"},
		{"snapshot-s3=true snapshot-s3-bucket=b snapshot-s3-endpoint=https://s3.example.com", "snapshot-s3-endpoint: \"https://s3.example.com\" has a scheme"},
		{"snapshot-s3=true snapshot-s3-bucket=b snapshot-s3-access-key=a", "access key and secret key go together"},
		{"snapshot-s3=true snapshot-s3-bucket=b snapshot-s3-bucket-lookup-type=x", "\"x\" is none of auto, dns, path"},
		{"audit-policy-file=/p", "audit-policy-file: has no effect without audit-log-path"},
		{"data-dir=here", `data-dir: "here" is not an absolute path`},
		{"data-dir=/", `data-dir: "/" would fill the root directory`},
		{"kube-apiserver-arg=--=x", `kube-apiserver-arg: "--=x" is not of the form NAME=VALUE`},
		{"kube-scheduler-arg==x", `kube-scheduler-arg: "=x" is not of the form NAME=VALUE`},
		// The node.
		{"v=-1", "v: -1 is below zero"},
		{"token=x token-file=/x", "token-file: and token are both given"},
		{"node-name=My_Box", `node-name: "My_Box" cannot name a node`},
		{"node-ip=10.0.0.1,10.0.0.2", "node-ip: has more than one IPv4 address"},
		{"node-ip=127.0.0.1", "node-ip: 127.0.0.1 is a loopback address"},
		{"node-ip=fe80::1", "node-ip: fe80::1 is a link-local address"},
		{"node-ip=10.43.0.7", "node-ip: 10.43.0.7 lies inside service-cidr 10.43.0.0/16"},
		{"node-ip=fd00::1 cluster-cidr=10.42.0.0/16", "node-ip: has no IPv4 address, which is the cluster's first family"},
		{"node-external-ip=0.0.0.0", "node-external-ip: 0.0.0.0 stands for all addresses"},
		{"node-external-ip=192.0.2.1,192.0.2.2", "node-external-ip: has more than one IPv4 address"},
		{"flannel-iface=a-name-that-is-too-long", "flannel-iface: "},
		{"resolv-conf=resolv.conf", "resolv-conf: "},
		{"private-registry=r.yaml", "private-registry: "},
		{"container-runtime-endpoint=tcp://x", "container-runtime-endpoint: "},
		{"kubelet-arg=-", `kubelet-arg: "-" is not of the form NAME=VALUE`},
		{"node-label=site", `node-label: "site" is not of the form KEY=VALUE`},
		{"node-label=a=b,a=c", `node-label: "a" is given twice`},
		{"node-label=si te=x", `node-label: "si te=x" has a wrong key`},
		{"node-label=site=har/bour", `node-label: "site=har/bour" has a wrong value`},
		{"node-label=node-role.kubernetes.io/edge=true", `"node-role.kubernetes.io/edge=true": a node may not give itself this label; set it with kubectl label node, or use a key under kubelet.kubernetes.io or node.kubernetes.io`},
		{"node-label=x.k8s.io/y=z", "a node may not give itself this label"},
		{"node-taint=a=b", `node-taint: "a=b" is not of the form KEY=VALUE:EFFECT`},
		{"node-taint=a=b:NoShedule", `effect "NoShedule" is not one of NoSchedule, PreferNoSchedule, NoExecute; did you mean NoSchedule?`},
		{"node-taint=a/b/c:NoSchedule", "has a wrong key"},
		{"node-taint=a=b/c:NoSchedule", "has a wrong value"},
		{"node-taint=a=b:NoSchedule,a=c:NoSchedule", "node-taint: a:NoSchedule is given twice"},
	} {
		t.Run(c.flags, func(t *testing.T) {
			t.Parallel()
			var flags []string
			for f := range strings.SplitSeq(c.flags, " ") {
				if len(flags) > 0 && !strings.Contains(f, "=") || f == "te=x" { // a blank inside a value
					flags[len(flags)-1] += " " + f
					continue
				}
				flags = append(flags, f)
			}
			l := loadFlags(t, ForServer, flags...)
			err := l.Server.Validate()
			if c.want == "" {
				if err != nil {
					t.Errorf("error %v", err)
				}
				return
			}
			if !slices.ContainsFunc(Problems(err), func(e error) bool { return strings.Contains(e.Error(), c.want) }) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	l := loadFlags(t, ForServer, "node-name=A_B", "cluster-dns=1.2.3.4", "flannel-backend=x", "disable=x")
	if got := len(Problems(l.Validate())); got != 4 {
		t.Errorf("%d problems, want 4: %v", got, l.Validate())
	}
}

func TestTokensAreNotShown(t *testing.T) {
	t.Parallel()
	l := loadFlags(t, ForServer, "token=very secret")
	err := l.Validate()
	if err == nil || strings.Contains(err.Error(), "very") {
		t.Errorf("error %v", err)
	}
}

func TestAgent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ flags, want string }{
		{"server=https://10.0.0.5:6443 token=x", ""},
		{"server=https://[fd00::5]:6443/ token-file=/x", ""},
		{"server=https://host token=x", ""},
		{"token=x", "server: is needed"},
		{"server=https://host", ""},
		{"server=http://host:6443 token=x", ""}, // the agent says what is wrong
		{"server=ftp://host:6443 token=x", `server: "ftp://host:6443" is not of the form https://HOST:6443`},
		{"server=https://host:0 token=x", `server: "https://host:0" is not of the form https://HOST:6443`},
		{"server=host:6443 token=x", "is not of the form"},
		{"server=https:// token=x", "is not of the form"},
		{"server=https://:6443 token=x", "is not of the form"},
		{"server=https://user:pw@host/x token=x", "holds more than https://HOST:PORT"},
		{"server=https://host token=x node-ip=127.0.0.1", "node-ip: 127.0.0.1 is a loopback address"},
	} {
		l := loadFlags(t, ForAgent, strings.Split(c.flags, " ")...)
		err := l.Validate()
		if c.want == "" && err != nil || c.want != "" && !strings.Contains(message(err), c.want) {
			t.Errorf("%s: %v, want %q", c.flags, err, c.want)
		}
		if strings.Contains(message(err), "pw") {
			t.Errorf("a password is shown: %v", err)
		}
	}
}
