# shellcheck shell=bash
# relay.sh: the one way from the machine into a cluster: 127.0.0.1:PORT to the
# API of n1. socat accepts on the machine's loopback; each connection continues
# in a process on the cluster's LAN, so it outlives reboots of the node.

relay_up() {
  local pid lan target
  lan=$(get lan/pid)
  target="$(node_ip n1)\\:$(limpet_port n1)" # socat's escape
  cg_make "$CG/relay"
  (
    exec 9<&-
    cg_enter "$CG/relay"
    exec setsid socat TCP-LISTEN:0,bind=127.0.0.1,fork,backlog=64 \
      EXEC:"nsenter --net=/proc/$lan/ns/net socat -t 1 STDIO TCP\\:$target\\,nodelay",nofork \
      </dev/null >/dev/null 2>"$CLUSTER_DIR/relay.log"
  ) &
  pid=$!
  await 5 relay_listens "$pid" || die "the relay did not start: $(tail -n 3 "$CLUSTER_DIR/relay.log")"
}

# relay_listens PID: records the port that the kernel chose for it.
relay_listens() {
  local line
  line=$(ss -Hltnp 'src 127.0.0.1' | grep -F "pid=$1,") || return 1
  [[ $line =~ 127\.0\.0\.1:([0-9]+) ]] || return 1
  put relay.port "${BASH_REMATCH[1]}"
}

# relay_kubeconfig: writes the administrator's kubeconfig for the machine and
# prints its path.
relay_kubeconfig() {
  local source out=$CLUSTER_DIR/kubeconfig new=$CLUSTER_DIR/.kubeconfig.$BASHPID
  source=$(limpet_root n1)/etc/limpet/limpet.yaml
  [[ -s $source ]] || die "n1 has no kubeconfig yet; has it started? (cluster logs n1)"
  (
    umask 077
    sed "s#^\( *server:\) .*#\1 https://127.0.0.1:$(get relay.port)#" "$source" >"$new"
    mv "$new" "$out"
  )
  printf '%s\n' "$out"
}
