package tunnel

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func testPolicy() (Policy, Pods) {
	return Policy{NodeName: "n2", KubeletPort: 10250, Kubelet: netip.MustParseAddrPort("127.0.0.1:10250")},
		Pods{
			Ranges:  []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("fd00:42:0:1::/64")},
			Machine: addrs("127.0.0.1", "::1", "192.168.1.10", "10.42.1.0", "10.42.1.1", "fd00:42:0:1::1", "fe80::1%eth0"),
		}
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	policy, pods := testPolicy()
	const refused = ""
	for target, want := range map[string]string{
		"n2:10250":                "127.0.0.1:10250",
		"10.42.1.7:8443":          "10.42.1.7:8443",
		"10.42.1.7:22":            "10.42.1.7:22", // the pod's, not the machine's
		"[::ffff:10.42.1.7]:8443": "10.42.1.7:8443",
		"[fd00:42:0:1::7]:8443":   "[fd00:42:0:1::7]:8443",
		// The machine, by all of its addresses.
		"n2:22":                     refused,
		"n2:010250":                 refused,
		"127.0.0.1:10250":           refused,
		"127.0.0.1:22":              refused,
		"[::1]:22":                  refused,
		"192.168.1.10:10250":        refused,
		"192.168.1.10:22":           refused,
		"10.42.1.1:22":              refused,
		"10.42.1.0:22":              refused,
		"[::ffff:10.42.1.1]:22":     refused,
		"[fd00:42:0:1::1]:22":       refused,
		"0.0.0.0:22":                refused,
		"[::]:22":                   refused,
		"[fe80::1%eth0]:22":         refused,
		"[fd00:42:0:1::7%eth0]:443": refused,
		// The rest of the world.
		"n3:10250":           refused,
		"10.42.2.7:8443":     refused,
		"192.168.1.1:80":     refused,
		"169.254.169.254:80": refused,
		"10.43.0.1:443":      refused,
		"localhost:10250":    refused,
		"example.com:443":    refused,
		// Nonsense.
		"":                refused,
		"n2":              refused,
		"10.42.1.7":       refused,
		"10.42.1.7:0":     refused,
		"10.42.1.7:65536": refused,
		"10.42.1.7:http":  refused,
		"10.42.1.07:80":   refused,
		"0x0a2a0107:80":   refused,
	} {
		got, err := policy.Resolve(target, pods)
		switch {
		case want == refused:
			if e := (*RefusedError)(nil); !errors.As(err, &e) || e.Target != target {
				t.Errorf("Resolve(%q) = %s, %v; want a refusal", target, got, err)
			}
		case err != nil || got.String() != want:
			t.Errorf("Resolve(%q) = %s, %v; want %s", target, got, err, want)
		}
	}
	if _, err := policy.Resolve("10.42.1.7:80", Pods{}); err == nil {
		t.Error("a node without a pod range connects to a pod")
	}
}

// FuzzPolicy looks for a target that leads out of the kubelet and the pods.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{"n2:10250", "10.42.1.7:80", "[fd00:42:0:1::7]:1", "[::ffff:10.42.1.1]:22", "10.42.1.255:65535"} {
		f.Add(s)
	}
	policy, pods := testPolicy()
	f.Fuzz(func(t *testing.T, target string) {
		got, err := policy.Resolve(target, pods)
		if err != nil || got == policy.Kubelet && target == "n2:10250" {
			return
		}
		inRange := slices.ContainsFunc(pods.Ranges, func(p netip.Prefix) bool { return p.Contains(got.Addr()) })
		if !inRange || slices.Contains(pods.Machine, got.Addr()) || got.Port() == 0 {
			t.Errorf("Resolve(%q) = %s", target, got)
		}
	})
}

func TestMachineAddrs(t *testing.T) {
	t.Parallel()
	list, err := machineAddrs()
	if err != nil || !slices.Contains(list, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("%v, %v; want 127.0.0.1 among them", list, err)
	}
}
