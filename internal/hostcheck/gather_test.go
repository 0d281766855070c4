package hostcheck

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

func TestParseKernelConfig(t *testing.T) {
	t.Parallel()
	got := parseKernelConfig("# Automatically generated\nCONFIG_OVERLAY_FS=m\n# CONFIG_VXLAN is not set\nCONFIG_HZ=250\n" +
		"CONFIG_CC_VERSION_TEXT=\"gcc (Debian) = 12\"\r\nCONFIG_VETH=n\nCONFIG_=y\nOVERLAY=y\n  CONFIG_BRIDGE=y")
	want := map[string]string{"OVERLAY_FS": "m", "HZ": "250", "CC_VERSION_TEXT": "gcc (Debian) = 12", "BRIDGE": "y"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzParseKernelConfig(f *testing.F) {
	f.Add("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		for name, value := range parseKernelConfig(text) {
			if name == "" || strings.ContainsAny(name, " \n#") || value == "n" || strings.Contains(value, "\n") {
				t.Errorf("%q = %q", name, value)
			}
		}
	})
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add(mountsHybrid + mountsV2 + "3 1 8:3 / /a\\040b ro - btrfs /dev/c ro\n")
	f.Fuzz(func(t *testing.T, text string) {
		mounts := parseMountinfo(text)
		cgroupFromMounts(mounts)
		if m, ok := mountOf(mounts, "/var/lib"); ok && m.Point != "/var/lib" && !isBelow("/var/lib", m.Point) {
			t.Errorf("/var/lib is on %q", m.Point)
		}
	})
}

func gzipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(s))
	_ = w.Close()
	return b.String()
}

func TestReadKernelConfig(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		root       fstest.MapFS
		value, src string
	}{
		"running kernel first": {fstest.MapFS{"proc/config.gz": file(gzipped("CONFIG_A=y\n")), "boot/config-6.1": file("CONFIG_A=m\n")}, "y", "/proc/config.gz"},
		"damaged archive":      {fstest.MapFS{"proc/config.gz": file("x"), "boot/config-6.1": file("CONFIG_A=m\n")}, "m", "/boot/config-6.1"},
		"of another kernel":    {fstest.MapFS{"boot/config-5.10": file("CONFIG_A=m\n")}, "", ""},
		"beside the modules":   {fstest.MapFS{"usr/lib/modules/6.1/config": file("CONFIG_A=m\n")}, "m", "/usr/lib/modules/6.1/config"},
		"empty":                {fstest.MapFS{"boot/config-6.1": file("")}, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, src := readKernelConfig(tt.root, "6.1")
			if config["A"] != tt.value || src != tt.src {
				t.Errorf("got %q from %q, want %q from %q", config["A"], src, tt.value, tt.src)
			}
		})
	}
}

func TestReadModules(t *testing.T) {
	t.Parallel()
	loaded, loadable, builtin := readModules(fstest.MapFS{
		"proc/modules":                    file("nf_tables 372736 82 nft_ct,nft_nat, Live 0x0\n"),
		"sys/module/overlay/refcnt":       file("1"),
		"lib/modules/6.1/modules.dep":     file("kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/net/ipv4/udp_tunnel.ko.xz\nkernel/net/bridge/br_netfilter.ko:\nextra/my-mod.ko.zst:\n"),
		"lib/modules/6.1/modules.builtin": file("kernel/drivers/net/veth.ko\n"),
	}, "6.1")
	if !loaded["nf_tables"] || !loaded["overlay"] || loaded["nft_ct"] {
		t.Errorf("loaded %v", loaded)
	}
	if !loadable["vxlan"] || !loadable["br_netfilter"] || !loadable["my_mod"] || len(loadable) != 3 {
		t.Errorf("loadable %v", loadable)
	}
	if !builtin["veth"] {
		t.Errorf("builtin %v", builtin)
	}
}

func TestGatherFiles(t *testing.T) {
	t.Parallel()
	f := gatherFiles(fstest.MapFS{
		"proc/self/status":                       file(rootStatus),
		"proc/self/ns/net":                       file(""),
		"proc/sys/net/ipv4/ip_forward":           file("1\n"),
		"proc/meminfo":                           file("MemTotal:        1000 kB\nMemAvailable:     500 kB\nSwapTotal:  7 kB\nbad\nX: y\n"),
		"proc/net/route":                         file("Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\neth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\n"),
		"proc/cpuinfo":                           file("flags : fpu hypervisor\n"),
		"proc/1/comm":                            file("init\n"),
		"etc/resolv.conf":                        file("nameserver 192.0.2.1\nnameserver x\n"),
		"etc/ufw/ufw.conf":                       file("ENABLED=yes\n"),
		"sys/class/rtc/rtc0":                     {Mode: fs.ModeDir},
		"sys/fs/selinux/enforce":                 file("1"),
		"sys/module/apparmor/parameters/enabled": file("Y\n"),
		"proc/device-tree/model":                 file("Raspberry Pi 4 Model B\x00"),
		"run/.containerenv":                      file(""),
		"run/docker.sock":                        file(""),
	}, "6.1")
	if f.memory != (memory{total: 1000 << 10, available: 500 << 10, swap: 7 << 10}) {
		t.Errorf("memory %+v", f.memory)
	}
	want := system{init: "init", container: "podman", virtual: true, model: "Raspberry Pi 4 Model B", selinux: "enforcing",
		apparmor: true, firewall: "ufw", docker: true}
	if f.system != want {
		t.Errorf("system\n got %+v\nwant %+v", f.system, want)
	}
	if !f.network.defaultRoute || len(f.network.nameservers) != 1 || !f.clock.rtc || !f.ns["net"] || f.sysctls["net/ipv4/ip_forward"] != "1" {
		t.Errorf("facts %+v", f)
	}
}

func TestHasDefaultRoute(t *testing.T) {
	t.Parallel()
	const v6default = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
	const v6reject = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo\n"
	for _, tt := range []struct {
		v4, v6 string
		want   bool
	}{
		{"", "", false},
		{"eth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\n", v6reject, false},
		{"eth0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\n", "", false}, // 0.0.0.0/1
		{"", v6default, true},
	} {
		if got := hasDefaultRoute(tt.v4, tt.v6); got != tt.want {
			t.Errorf("%q %q: %v", tt.v4, tt.v6, got)
		}
	}
}
