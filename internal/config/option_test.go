package config

import (
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/limpetio/limpet/manifests"
)

// Every option has all that help, documentation and decoding need, and no name is taken twice.
func TestOptionsAreComplete(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	take := func(what, name string) {
		if other, twice := seen[what]; twice {
			t.Errorf("%s of %s is taken by %s", what, name, other)
		}
		seen[what] = name
	}
	for _, o := range Options() {
		for _, f := range o.Flags() {
			take("flag "+f, o.Name)
		}
		take("variable "+o.Env, o.Name)
		switch {
		case o.Kind == 0 || o.set == nil || o.get == nil:
			t.Errorf("%s has no binding", o.Name)
		case o.Commands == 0:
			t.Errorf("%s belongs to no command", o.Name)
		case o.Group == "" || !strings.HasSuffix(o.Usage, "."):
			t.Errorf("%s: group %q, usage %q", o.Name, o.Group, o.Usage)
		case (o.Value == "") != (o.Kind == Bool):
			t.Errorf("%s: value %q of kind %s", o.Name, o.Value, o.Kind)
		case !strings.HasPrefix(o.Env, "LIMPET_"):
			t.Errorf("%s: environment %s", o.Name, o.Env)
		}
	}
}

// The names that people know from k3s.
func TestKnownEnvironment(t *testing.T) {
	t.Parallel()
	for name, env := range map[string]string{
		"token": "LIMPET_TOKEN", "token-file": "LIMPET_TOKEN_FILE", "server": "LIMPET_URL", "node-name": "LIMPET_NODE_NAME",
		"write-kubeconfig": "LIMPET_KUBECONFIG_OUTPUT", "write-kubeconfig-mode": "LIMPET_KUBECONFIG_MODE",
		"write-kubeconfig-group": "LIMPET_KUBECONFIG_GROUP", "data-dir": "LIMPET_DATA_DIR", "config": "LIMPET_CONFIG_FILE",
		"resolv-conf": "LIMPET_RESOLV_CONF", "debug": "LIMPET_DEBUG",
	} {
		if o := lookup(Options(), name); o == nil || o.Env != env {
			t.Errorf("%s: %+v, want environment %s", name, o, env)
		}
	}
}

// sample values, one for each option, that differ from every default.
var samples = map[string][]string{
	"config": {"/x/c.yaml"}, "data-dir": {"/x/data"}, "debug": {"true"}, "v": {"4"}, "token": {"secret"}, "token-file": {"/x/token"},
	"server": {"https://10.0.0.5:6443"}, "bind-address": {"10.0.0.6"}, "https-listen-port": {"7443"}, "advertise-address": {"10.0.0.7"},
	"tls-san": {"a.example.com", "10.0.0.8"}, "cluster-cidr": {"10.52.0.0/16", "fd00:52::/56"}, "service-cidr": {"10.53.0.0/16", "fd00:53::/112"},
	"service-node-port-range": {"31000-32000"}, "cluster-dns": {"10.53.0.11", "fd00:53::b"}, "cluster-domain": {"edge.local"},
	"flannel-backend": {"host-gw"}, "flannel-external-ip": {"true"}, "write-kubeconfig": {"/x/kubeconfig"}, "write-kubeconfig-mode": {"0640"}, "write-kubeconfig-group": {"adm"},
	"disable": {"coredns"}, "disable-agent": {"true"}, "disable-scheduler": {"true"}, "disable-controller-manager": {"true"},
	"disable-kube-proxy": {"true"}, "audit-log-path": {"-"}, "audit-policy-file": {"/x/policy.yaml"}, "node-name": {"box-7"},
	"with-node-id": {"true"}, "node-label": {"site=harbour", "tier=1"}, "node-taint": {"a=b:NoSchedule"}, "node-ip": {"10.0.0.9", "fd00::9"},
	"node-external-ip": {"192.0.2.1"}, "resolv-conf": {"/x/resolv.conf"}, "disable-node-local-dns": {"true"}, "flannel-iface": {"eth1"}, "protect-kernel-defaults": {"true"},
	"private-registry": {"/x/registries.yaml"}, "disable-default-registry-endpoint": {"true"}, "snapshotter": {"native"},
	"pause-image": {"example.com/pause:2"}, "default-runtime": {"crun"}, "container-runtime-endpoint": {"unix:///x/cri.sock"},
	"kube-apiserver-arg": {"feature-gates=A=true,B=false", "v=2"}, "kube-controller-manager-arg": {"bind-address=127.0.0.1"},
	"kube-scheduler-arg": {"bind-address=127.0.0.1"}, "kubelet-arg": {"eviction-hard=memory.available<5%,nodefs.available<5%"},
	"kube-proxy-arg": {"masquerade-all"}, "snapshot-schedule": {"0 3 * * *"}, "snapshot-retention": {"9"}, "snapshot-dir": {"/x/snapshots"},
	"snapshot-s3": {"true"}, "snapshot-s3-endpoint": {"s3.example.com:9000"}, "snapshot-s3-endpoint-ca": {"/x/ca.pem"},
	"snapshot-s3-skip-ssl-verify": {"true"}, "snapshot-s3-insecure": {"true"}, "snapshot-s3-bucket": {"box"},
	"snapshot-s3-bucket-lookup-type": {"path"}, "snapshot-s3-region": {"eu-central-1"}, "snapshot-s3-folder": {"mast-7"},
	"snapshot-s3-access-key": {"access"}, "snapshot-s3-secret-key": {"secret"}, "snapshot-s3-session-token": {"session"},
	"snapshot-s3-timeout": {"1m30s"},
}

// Each option reaches a field of its own, and comes out of it as it went in.
func TestSettersAndGetters(t *testing.T) {
	t.Parallel()
	opts := Options()
	if got, want := slices.Sorted(slices.Values(names(opts))), slices.Sorted(maps.Keys(samples)); !slices.Equal(got, want) {
		t.Fatalf("options %q, samples %q", got, want)
	}
	for i := range opts {
		o := &opts[i]
		if o.Name == "config" {
			continue // has no field
		}
		var s Server
		if err := o.set(&s, samples[o.Name]); err != nil {
			t.Errorf("%s: %v", o.Name, err)
		}
		if got := o.get(&s); !slices.Equal(got, samples[o.Name]) {
			t.Errorf("%s: set %q, got %q", o.Name, samples[o.Name], got)
		}
		for j := range opts {
			if other := &opts[j]; other.Name != o.Name && !slices.Equal(other.get(&s), other.get(new(Server))) {
				t.Errorf("%s changes %s", o.Name, other.Name)
			}
		}
	}
}

func TestWrongValues(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ option, value, want string }{
		{"https-listen-port", "abc", `"abc" is not a number`},
		{"debug", "maybe", `neither true nor false`},
		{"write-kubeconfig-mode", "0999", `not an octal file mode`},
		{"write-kubeconfig-mode", "rw-------", `not an octal file mode`},
		{"write-kubeconfig-mode", "01777", `not an octal file mode`},
		{"bind-address", "localhost", `"localhost" is not an IP address`},
		{"bind-address", "fe80::1%eth0", `has a zone`},
		{"node-ip", "::ffff:10.0.0.1", `write 10.0.0.1`},
		{"cluster-cidr", "10.42.0.0", `not an address range`},
		{"cluster-cidr", "10.42.3.0/16", `did you mean 10.42.0.0/16?`},
		{"service-cidr", "::ffff:10.0.0.0/112", `IPv4 range in IPv6 form`},
	} {
		err := check(lookup(Options(), c.option), c.value)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.option, c.value, err, c.want)
		}
	}
}

// Defaults that the table shows as plain values are those that Complete sets.
func TestShownDefaults(t *testing.T) {
	t.Parallel()
	var s Server
	if err := s.Complete(func() (string, error) { return "box", nil }); err != nil {
		t.Fatal(err)
	}
	opts := Options()
	for i := range opts {
		o := &opts[i]
		if o.Kind == Bool || o.Name == "config" {
			continue
		}
		got := strings.Join(o.get(&s), ",")
		// "0.0.0.0, or …" and "10.42.0.0/16 (IPv6: …)" begin with the value; others describe it.
		first, _, _ := strings.Cut(o.Default, " ")
		described := map[string]bool{"node-name": true, "cluster-dns": true, "advertise-address": true, "node-ip": true,
			"resolv-conf": true, "flannel-iface": true, "audit-policy-file": true, "snapshot-dir": true}
		if !described[o.Name] && got != strings.TrimSuffix(first, ",") {
			t.Errorf("%s: shown %q, is %q", o.Name, o.Default, got)
		}
	}
}

// What --disable takes is what there is to disable.
func TestPackagedComponents(t *testing.T) {
	t.Parallel()
	entries, err := fs.ReadDir(manifests.FS(), ".")
	if err != nil {
		t.Fatal(err)
	}
	needed := []string{"rbac"} // no cluster works without
	var found []string
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".yaml"); !slices.Contains(needed, name) {
			found = append(found, name)
		}
	}
	if got := PackagedComponents(); !slices.Equal(got, found) {
		t.Errorf("--disable takes %q, the manifests are %q", got, found)
	}
}

func TestDocumentation(t *testing.T) {
	t.Parallel()
	got, err := os.ReadFile("../../docs/flags.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != Markdown() {
		t.Error("docs/flags.md is not what the table of options says; run: go run ./scripts/gendocs")
	}
}
