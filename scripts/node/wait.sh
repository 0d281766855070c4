# shellcheck shell=bash
# wait.sh: waiting for a node to be Ready, visibly.

# wait_ready NODE SECONDS: returns when NODE is Ready; says what is awaited.
# Fails with the end of limpet's log when limpet ends or the time is up.
wait_ready() {
  local node=$1 limit=$2 start=$SECONDS watcher what
  put "$node/awaits" "the kubeconfig of n1"
  wait_watch "$node" "$limit" 9<&- >/dev/null 2>&1 &
  watcher=$!
  while kill -0 "$watcher" 2>/dev/null; do
    what=$(get "$node/awaits")
    progress "$node: waiting for $what" $((SECONDS - start))
    if ! limpet_running "$node"; then
      kill "$watcher" 2>/dev/null || true
      wait_failed "$node" "limpet ended with status $(limpet_exit_status "$node") while waiting for $what"
    fi
    sleep 0.1
  done
  wait "$watcher" || wait_failed "$node" "not Ready after $limit s; still waiting for $(get "$node/awaits")"
  rm -f "$CLUSTER_DIR/$node/awaits"
  progress_end "$node: Ready after $((SECONDS - start)) s"
}

# wait_watch NODE SECONDS: the waiting itself, in the background. Files and the
# kernel's socket table are looked at, the API is watched by kubectl: starting
# the big binary again and again would disturb the very start that is awaited.
wait_watch() {
  local node=$1 limit=$2 port
  await "$limit" test -s "$(node_root n1)/etc/limpet/limpet.yaml" || return
  put "$node/awaits" "the API server"
  port=$(printf '%04X' "$(limpet_port n1)")
  await "$limit" grep -qs ":$port 0*:0000 0A" "/proc/$(node_init n1)/net/tcp" "/proc/$(node_init n1)/net/tcp6" || return
  put "$node/awaits" "node $node to register"
  wait_kubectl "$limit" --for=create "node/$node" || return
  put "$node/awaits" "node $node to be Ready"
  wait_kubectl "$limit" --for=condition=Ready "node/$node"
}

# wait_kubectl SECONDS ARGS…: kubectl wait on n1, again after an error (a server
# that starts refuses and forbids at first).
wait_kubectl() {
  local end=$((SECONDS + $1))
  shift
  until (node_exec n1 limpet kubectl wait --timeout=10s "$@"); do
    ((SECONDS < end)) || return 1
    sleep 0.3
  done
}

wait_failed() {
  local log=$CLUSTER_DIR/$1/limpet.log
  progress_end "$1: $2"
  say "--- the last lines of $log:"
  tail -n 30 "$log" >&2
  die "node $1: $2"
}
