#!/usr/bin/env bash
# lan-init.sh READY-FIFO ADDRESS [ADDRESS6]: the process that is the LAN's namespace.
set -euo pipefail

ip link set lo up
ip link add br0 type bridge forward_delay 0
ip addr add "$2" dev br0
[[ -z ${3-} ]] || ip addr add "$3" dev br0 nodad
ip link set br0 up
# Frames between nodes are nobody's business here (per network namespace).
for f in /proc/sys/net/bridge/bridge-nf-call-{arp,ip,ip6}tables; do
  [[ ! -w $f ]] || echo 0 >"$f"
done
echo 0 >/proc/sys/net/ipv4/ip_forward

echo up >"$1"
exec -a limpet-test-lan sleep infinity
