# shellcheck shell=bash
# limpet.sh: the limpet process of a node: start, stop, wait for Ready, images.

# limpet_define NODE ROLE ARGS…: what `start` and `reboot` run from now on.
limpet_define() {
  local node=$1 role=$2
  shift 2
  put "$node/role" "$role"
  printf '%s\0' /usr/local/bin/limpet "$role" "$@" >"$CLUSTER_DIR/$node/argv"
  {
    printf '%s\0' PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
    # Later values win in env(1), so --env PATH= empties the path.
    ((${#NODE_ENV[@]} == 0)) || printf '%s\0' "${NODE_ENV[@]}"
  } >"$CLUSTER_DIR/$node/env"
}

# limpet_start NODE EXTRA…: starts it, with flags for this one run.
limpet_start() {
  local node=$1 run
  shift
  node_alive "$node" || die "node $node is not running; start it with: cluster reboot $node"
  run=$(node_root "$node")/run/node
  ! limpet_running "$node" || die "limpet already runs on $node"
  rm -f "$run/limpet.pid" "$run/limpet.exit"
  cp "$CLUSTER_DIR/$node/argv" "$CLUSTER_DIR/$node/env" "$run/"
  (($# == 0)) || printf '%s\0' "$@" >>"$run/argv"
  echo start >"$run/ctl"
  await 10 test -s "$run/limpet.pid" || die "node $node did not start limpet: $(tail -n 3 "$CLUSTER_DIR/$node/console.log")"
}

# limpet_running NODE: it was started and has not ended.
limpet_running() {
  local run
  run=$(node_root "$1")/run/node
  [[ -e $run/limpet.pid && ! -e $run/limpet.exit ]]
}

limpet_exit_status() { cat "$(node_root "$1")/run/node/limpet.exit" 2>/dev/null || true; }

# limpet_pid NODE: its pid as the machine sees it (for /proc/PID/smaps_rollup, io, …).
limpet_pid() {
  local inner pid key ids
  limpet_running "$1" || die "limpet does not run on $1"
  inner=$(<"$(node_root "$1")/run/node/limpet.pid")
  for pid in $(cg_pids "$CG/$1/limpet.service"); do
    while IFS=: read -r key ids; do
      if [[ $key == NSpid && $ids == *$'\t'"$inner" ]]; then
        echo "$pid"
        return
      fi
    done <"/proc/$pid/status" || true
  done 2>/dev/null
  die "limpet does not run on $1"
}

# limpet_stop NODE SIGNAL: signals limpet alone and waits for its end.
limpet_stop() {
  local node=$1 signal=$2
  limpet_running "$node" || die "limpet does not run on $node"
  kill -s "$signal" "$(limpet_pid "$node")"
  await 45 limpet_ended "$node" || die "limpet on $node did not end within 45 s of SIG${signal#SIG}"
}
limpet_ended() { ! limpet_running "$1"; }

# limpet_port NODE: the API port, from the flags.
limpet_port() {
  local -a argv
  local i port=6443
  mapfile -d '' -t argv <"$CLUSTER_DIR/$1/argv"
  for ((i = 0; i < ${#argv[@]}; i++)); do
    case ${argv[i]} in
      --https-listen-port) port=${argv[i + 1]-} ;;
      --https-listen-port=*) port=${argv[i]#*=} ;;
    esac
  done
  [[ $port =~ ^[0-9]+$ ]] || port=6443
  printf '%s' "$port"
}

# limpet_images NODE FILE|DIR…: puts image archives where limpet imports them.
# Prints the archives' image names.
limpet_images() {
  local node=$1 dest f
  local -a files=()
  shift
  for f in "$@"; do
    if [[ -d $f ]]; then
      files+=("$f"/*.tar*)
    else
      files+=("$f")
    fi
  done
  dest=$(limpet_root "$node")/var/lib/limpet/agent/images
  mkdir -p "$dest"
  for f in "${files[@]}"; do
    [[ -r $f ]] || die "image archive $f cannot be read; build them with scripts/images/build"
    cp "$f" "$dest/.${f##*/}.part"
    mv -f "$dest/.${f##*/}.part" "$dest/${f##*/}"
    tar -xOf "$f" manifest.json 2>/dev/null | grep -o '"RepoTags":\[[^]]*\]' | grep -o '"[^"]*:[^"[]*"' | tr -d '"' || true
  done
}

# limpet_root NODE: its disk, whether the node runs or not.
limpet_root() {
  if node_alive "$1"; then
    node_root "$1"
  else
    printf '%s/%s/disk' "$CLUSTER_DIR" "$1"
  fi
}

# limpet_imported NODE REF…: containerd of the node knows all of them.
limpet_imported() {
  local node=$1 have ref
  shift
  have=$(node_exec "$node" limpet ctr -n k8s.io images ls -q 2>/dev/null) || return 1
  for ref in "$@"; do
    grep -qxF -- "$ref" <<<"$have" || return 1
  done
}
