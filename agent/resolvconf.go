package agent

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"
)

const (
	hostResolvConf = "/etc/resolv.conf"
	// systemdResolvConf has the name servers behind systemd-resolved's stub.
	systemdResolvConf = "/run/systemd/resolve/resolv.conf"
)

// podResolvConf chooses the resolv.conf that pods with the node's DNS policy
// get. systemd-resolved's stub listens on a loopback address of the machine,
// which is not theirs. A machine without resolv.conf gives them none.
func podResolvConf(named string, read func(string) ([]byte, error)) (string, error) {
	if named != "" {
		if _, err := read(named); err != nil {
			return "", fmt.Errorf("--resolv-conf: %w", err)
		}
		return named, nil
	}
	data, err := read(hostResolvConf)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the machine's name servers: %w", err)
	}
	if onlyLoopback(data) {
		if real, err := read(systemdResolvConf); err == nil && !onlyLoopback(real) {
			return systemdResolvConf, nil
		}
	}
	return hostResolvConf, nil
}

// onlyLoopback reports whether every name server of a resolv.conf(5) is on a
// loopback address, and there is one.
func onlyLoopback(data []byte) bool {
	found := false
	scanner := bufio.NewScanner(bytes.NewReader(data))
	for scanner.Scan() {
		f := strings.Fields(scanner.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(f[1])
		if err != nil || !addr.IsLoopback() {
			return false
		}
		found = true
	}
	return found
}

// ResolvConf is podResolvConf on this machine.
func ResolvConf(named string) (string, error) { return podResolvConf(named, os.ReadFile) }
