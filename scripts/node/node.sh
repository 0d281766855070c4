# shellcheck shell=bash
# node.sh: a node's life. Everything in it hangs on its process 1 (init.sh).

# node_boot NODE: creates the namespaces around the existing disk.
node_boot() {
  local node=$1 dir=$CLUSTER_DIR/$1 part
  for part in init.scope limpet.service exec; do
    cg_make "$CG/$node/$part"
  done
  printf "%s\n" "$CG_LIST" >"$dir/cgroups"
  ready_open "$dir"
  (
    exec 9<&- 8<&-
    cg_enter "$CG/$node"
    CGROUP=$CG/$node exec setsid unshare --cgroup -- \
      bash "$LIB/init.sh" enter "$dir" "$node" "$dir/ready" </dev/null >"$dir/console.log" 2>&1
  ) &
  ready_wait "$dir" 20 || die "node $node did not boot: $(tail -n 3 "$dir/console.log")"
  put "$node/init.pid" "${READY_LINE#up }"
  lan_attach "$node" "$(node_init "$node")"
}

node_init() { get "$1/init.pid"; }

# node_alive NODE: its recorded process 1 exists and is ours (pids are re-used).
node_alive() {
  local pid
  pid=$(node_init "$1")
  # A killed process may be a zombie for a while: it has no namespaces any more.
  [[ -n $pid && -e /proc/$pid/ns/net ]] && grep -q "/$CG/$1/init.scope$" "/proc/$pid/cgroup" 2>/dev/null
}

# node_halt NODE: the plug is pulled. The pid namespace's end takes every process.
node_halt() {
  local node=$1
  if node_alive "$node"; then
    kill -KILL "$(node_init "$node")" 2>/dev/null || true
  fi
  cg_kill "$CG/$node"
  cg_remove "$CG/$node"
  rm -f "$CLUSTER_DIR/$node/init.pid"
}

# node_exec NODE CMD…: replaces the calling shell by CMD (bash) inside the node.
node_exec() {
  local node=$1
  shift
  (($#)) || set -- bash
  node_alive "$node" || die "node $node is not running; start it with: cluster reboot $node"
  # The systemd of a machine removes what it finds empty and did not make itself, at
  # any moment: also between these two.
  if [[ -e $CLUSTER_DIR/$node/machine ]]; then
    await 5 node_enter "$CG/$node/exec" || die "the cgroup of machine $node cannot be entered"
  else
    cg_enter "$CG/$node/exec"
  fi
  exec setpriv --bounding-set -sys_time nsenter -t "$(node_init "$node")" -m -u -i -n -p -C -- \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 HOSTNAME="$node" "$@"
}

# node_enter PATH: makes PATH and moves the calling shell there, in every hierarchy or
# with a failure.
node_enter() {
  local mnt left=''
  cg_make "$1" 2>/dev/null || true
  while read -r _ mnt _; do
    { echo "$BASHPID" >"$mnt/$1/cgroup.procs"; } 2>/dev/null || left=$mnt
  done <<<"$CG_LIST"
  [[ -z $left ]]
}

# node_root NODE: the node's root as the machine sees it.
node_root() { printf '/proc/%s/root' "$(node_init "$1")"; }
