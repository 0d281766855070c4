package hostcheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeTimeout bounds all probes together.
const probeTimeout = 10 * time.Second

// runProbes tries for real what the configuration of a kernel only promises. Links,
// nftables and mounts are made in namespaces of their own, which vanish with the
// thread that holds them.
func runProbes(ctx context.Context, opts Options, d *disk) map[probe]probeResult {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	results := make(map[probe]probeResult)
	inNamespace(unix.CLONE_NEWNET, func() {
		results[probeBridge] = tryLink(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "limpet0"}})
		results[probeVeth] = tryLink(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "limpet1"}, PeerName: "limpet2"})
		results[probeVXLAN] = tryLink(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "limpet3"}, VxlanId: 1, Port: 8472})
		if nft := findNft(opts); nft != "" {
			results[probeNft] = tryNft(ctx, nft)
		}
	})
	if d != nil && d.writable {
		inNamespace(unix.CLONE_NEWNS, func() { results[probeOverlay] = tryOverlay(d.path) })
	}
	return results
}

// inNamespace runs f on a thread with a new namespace of the kind, and waits.
// Without the privilege f is not run. The thread ends with the goroutine because
// it stays locked; the main thread would not end, so that one is never used.
func inNamespace(kind int, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			inNamespace(kind, f) // this thread is held meanwhile, so it is another one
			runtime.UnlockOSThread()
			return
		}
		if unix.Unshare(kind) == nil {
			f()
		}
	}()
	<-done
}

func tryLink(l netlink.Link) probeResult {
	if err := netlink.LinkAdd(l); err != nil {
		return probeResult{err: fmt.Sprintf("make a %s link: %v", l.Type(), err)}
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return probeResult{err: fmt.Sprintf("set a %s link up: %v", l.Type(), err)}
	}
	return probeResult{}
}

// findNft returns the nft that limpet would use: the payload's if it is unpacked, else the machine's.
func findNft(opts Options) string {
	for _, name := range []string{
		filepath.Join(opts.PayloadBin, "nft"),
		filepath.Join(opts.DataDir, "data", "current", "bin", "nft"),
	} {
		if filepath.IsAbs(name) && unix.Access(name, unix.X_OK) == nil {
			return name
		}
	}
	name, err := exec.LookPath("nft")
	if err != nil {
		return ""
	}
	return name
}

// nftRules uses every kind of expression that kube-proxy, flannel and the
// portmap plugin use: sets with timeouts, verdict maps, dnat, masquerade, fib,
// conntrack, random choice, reject and hairpin marks, in both families.
const nftRules = `
table FAMILY limpet-check {
	set affinity { type ADDR; flags dynamic,timeout; timeout 60s; }
	map services { type ADDR . inet_proto . inet_service : verdict; }
	chain hairpin { meta mark set meta mark or 0x4000; }
	chain endpoint { IP saddr IP saddr jump hairpin; update @affinity { IP saddr }; meta l4proto tcp dnat to TO; }
	chain service { numgen random mod 2 vmap { 0 : goto endpoint, 1 : goto endpoint }; }
	chain refuse { reject; }
	chain prerouting {
		type nat hook prerouting priority dstnat;
		IP daddr . meta l4proto . th dport vmap @services;
		fib daddr type local meta l4proto tcp tcp dport 30000-32767 jump service;
	}
	chain output { type nat hook output priority -100; }
	chain forward {
		type filter hook forward priority filter;
		ct state invalid drop;
		ct state new jump refuse;
		ct status dnat accept;
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		meta mark & 0x4000 == 0 return;
		meta mark set meta mark xor 0x4000;
		masquerade fully-random;
	}
}
`

func tryNft(ctx context.Context, nft string) probeResult {
	v4 := strings.NewReplacer("FAMILY", "ip", "ADDR", "ipv4_addr", "IP saddr IP saddr", "ip saddr 192.0.2.1", "IP", "ip", "TO", "192.0.2.1:80").Replace(nftRules)
	v6 := strings.NewReplacer("FAMILY", "ip6", "ADDR", "ipv6_addr", "IP saddr IP saddr", "ip6 saddr 2001:db8::1", "IP", "ip6", "TO", "[2001:db8::1]:80").Replace(nftRules)
	version, _ := exec.CommandContext(ctx, nft, "--version").Output()
	detail := strings.TrimSpace(string(version))
	if err := runNft(ctx, nft, v4); err != nil {
		return probeResult{err: err.Error(), detail: detail}
	}
	if err := runNft(ctx, nft, v6); err != nil {
		detail += "; not for IPv6: " + err.Error()
	}
	return probeResult{detail: detail}
}

func runNft(ctx context.Context, nft, rules string) error {
	cmd := exec.CommandContext(ctx, nft, "-f", "-") // a child of this thread: in its network namespace
	cmd.Stdin = strings.NewReader(rules)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		first, _, _ := strings.Cut(stderr.String(), "\n")
		return fmt.Errorf("load rules with %s: %w: %s", nft, err, first)
	}
	return nil
}

// tryOverlay mounts an overlay on directories below dir, which it removes again.
func tryOverlay(dir string) probeResult {
	err := func() (err error) {
		// Nothing that is mounted here may show outside.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		tmp, err := os.MkdirTemp(dir, ".limpet-check-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
		for _, sub := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(filepath.Join(tmp, sub), 0o700); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(tmp, "lower", "file"), nil, 0o600); err != nil {
			return err
		}
		merged := filepath.Join(tmp, "merged")
		data := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", tmp)
		if err := unix.Mount("overlay", merged, "overlay", 0, data); err != nil {
			return fmt.Errorf("mount overlay on %s: %w", dir, err)
		}
		defer func() { err = errors.Join(err, unix.Unmount(merged, unix.MNT_DETACH)) }()
		// Removing makes a whiteout, which not every file system can hold.
		if err := os.Remove(filepath.Join(merged, "file")); err != nil {
			return fmt.Errorf("delete a file through overlay on %s: %w", dir, err)
		}
		return nil
	}()
	if err != nil {
		return probeResult{err: err.Error()}
	}
	return probeResult{detail: "mounted on " + dir}
}
