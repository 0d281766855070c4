# shellcheck shell=bash
# lan.sh: a cluster's LAN is one bridge in a network namespace of its own. The
# namespace lives as long as one process in it; it has no name and no mount, so
# nothing of it can stay behind. Being a member of the LAN (address .1, which is
# also the nodes' default gateway; it forwards nothing), it is a client machine
# outside the cluster as well: `cluster exec lan CMD`.

lan_up() {
  local dir=$CLUSTER_DIR/lan pid
  mkdir -p "$dir"
  cg_make "$CG/lan"
  ready_open "$dir"
  (
    exec 9<&- 8<&-
    cg_enter "$CG/lan"
    exec setsid unshare --net -- bash "$LIB/lan-init.sh" "$dir/ready" "$LAN_PREFIX.1/24" ${LAN6:+"$LAN_PREFIX6:1/64"} </dev/null >"$dir/console.log" 2>&1
  ) &
  pid=$!
  ready_wait "$dir" 10 || die "the LAN namespace did not come up: $(tail -n 3 "$dir/console.log")"
  put lan/pid "$pid"
}

lan_alive() {
  local pid
  pid=$(get lan/pid)
  [[ -n $pid && -e /proc/$pid/ns/net ]] && grep -q "/$CG/lan$" "/proc/$pid/cgroup" 2>/dev/null
}

# lan_attach NODE PID: eth0 in the network namespace of PID, plugged into the bridge.
lan_attach() {
  local node=$1 pid=$2 lan ip
  lan=$(get lan/pid) ip=$(node_ip "$1")
  # A node that was just killed may still hold its old port for a moment.
  nsenter -t "$lan" -n ip link del "v-$node" 2>/dev/null || true
  nsenter -t "$lan" -n ip link add "v-$node" type veth peer name eth0 netns "$pid"
  nsenter -t "$lan" -n ip link set "v-$node" master br0 up
  nsenter -t "$pid" -n ip -batch - <<END
link set lo up
addr add $ip/24 dev eth0
link set eth0 up
END
  [[ -n $(get no-default-route) ]] || nsenter -t "$pid" -n ip route add default via "$LAN_PREFIX.1"
  # Usable at once: nobody else has it.
  [[ -z $(get dual-stack) ]] || nsenter -t "$pid" -n ip addr add "$(node_ip6 "$node")/64" dev eth0 nodad
}

# lan_exec CMD…: a command on the LAN, outside of every node.
lan_exec() {
  lan_alive || die "the cluster in $CLUSTER_DIR is not up"
  cg_enter "$CG/lan"
  exec nsenter -t "$(get lan/pid)" -n -- "$@"
}
