package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// prepareKernel switches on what pod traffic needs. Only values that differ are
// written: in a container /proc/sys may be read-only and right all the same.
func prepareKernel(v4, v6 bool) error {
	// Traffic between two pods of the node that goes through a Service is
	// translated on the way there; its answers take the bridge and meet the
	// translation only with br_netfilter. Nothing loads that module by itself.
	const bridged = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if _, err := os.Stat(bridged); err != nil {
		_ = exec.Command("modprobe", "br_netfilter").Run() // built in, or missing: the write below tells
	}
	var errs []error
	if v4 {
		errs = append(errs, sysctl("/proc/sys/net/ipv4/ip_forward", "1"), sysctl(bridged, "1"))
	}
	if v6 {
		errs = append(errs, sysctl("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
			sysctl("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "1"))
	}
	return errors.Join(errs...)
}

func sysctl(path, value string) error {
	old, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0o644)
	}
	if err != nil {
		return fmt.Errorf("set %s to %s: %w", path, value, err)
	}
	return nil
}
