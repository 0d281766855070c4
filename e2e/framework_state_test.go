package e2e

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// machineState is nodeState of a machine that has its own /usr and a service manager:
// also what is in the files, but for logs. The service manager's own goes its own way.
const machineState = `
skip=(-path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /dev -o -path /root/.kube -o -path /srv/kept
  -o -path /var/log/journal -o -path /var/lib/systemd)
find / -xdev \( "${skip[@]}" \) -prune -o -type f -printf 'file %p %y %m %s\n' -o -printf 'file %p %y %m %l\n' | sed 's|^\(file /var/log/.*\) [0-9]*$|\1|'
find / -xdev \( "${skip[@]}" -o -path /var/log \) -prune -o -type f -print0 | xargs -0 sha256sum | sed 's/^/content /'
skip=(-path /run/node -o -path /run/systemd -o -path /run/udev -o -path /run/openrc -o -path /run/mount -o -path /dev/pts -o -path '/tmp/systemd-private*')
find /run /tmp /dev -xdev \( "${skip[@]}" \) -prune -o -printf 'file %p %y %m\n'
! command -v systemctl >/dev/null || {
  systemctl list-unit-files --no-legend --no-pager | awk '{print "unit", $1, $2}'
  systemctl list-units --all --plain --no-legend --no-pager 'limpet*' | sed 's/^/loaded /'
}
` + kernelState

// perBoot is what each boot of a machine has of its own: its network card is a new one.
var perBoot = regexp.MustCompile(`@if[0-9]+|link/ether [0-9a-f:]+`)

// state prints what one of the scripts sees on a machine.
func (m *machines) state(ctx context.Context, t *testing.T, node, script string) []string {
	t.Helper()
	lines := look(ctx, t, m.cluster, node, script)
	// The card's own address of IPv6 comes a second after the boot.
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "route local fe80::") })
	for i, line := range lines {
		lines[i] = strings.TrimSpace(perBoot.ReplaceAllString(line, "…"))
	}
	slices.Sort(lines)
	if len(lines) < 500 {
		t.Fatalf("only %d lines describe the machine:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	return lines
}

// removal: the two scripts that people look for, in dir, stop everything and remove
// everything.
func (m *machines) removal(ctx context.Context, t *testing.T, node, dir string, before []string) {
	t.Helper()
	m.mustIn(ctx, t, node, "sh", "-c", "mkdir -p /srv/kept && cp -a /var/lib/limpet/data/current/. /srv/kept/nft")
	r := m.in(ctx, node, dir+"/limpet-killall.sh")
	if r.code != 0 || !strings.Contains(r.text(), "Stopping the service limpet") {
		t.Fatalf("limpet-killall.sh: exit status %d:\n%s", r.code, r.text())
	}
	compare(t, "limpet-killall.sh", before, m.state(ctx, t, node, kernelState), func(line string) bool {
		if strings.Contains(line, "/system.slice") || strings.HasSuffix(line, "/limpet.service") {
			return false // the unit is still there, and systemd arranges its own
		}
		for _, kind := range []string{"mount ", "interface ", "route ", "rule ", "nft ", "cgroup "} {
			if strings.HasPrefix(line, kind) {
				return true
			}
		}
		return false
	})
	r = m.in(ctx, node, dir+"/limpet-uninstall.sh", "--yes")
	if r.code != 0 || !strings.Contains(r.text(), "limpet is uninstalled") {
		t.Fatalf("limpet-uninstall.sh: exit status %d:\n%s", r.code, r.text())
	}
	compare(t, "limpet-uninstall.sh", before, m.state(ctx, t, node, machineState), func(string) bool { return true })
}
