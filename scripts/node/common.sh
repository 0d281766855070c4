# shellcheck shell=bash
# common.sh: messages, the state directory and its lock. Sourced by scripts/cluster.

# LAN of a cluster; node nK has address LAN_PREFIX.(10+K), the LAN itself .1.
readonly LAN_PREFIX=10.99.0
# With --dual-stack also LAN_PREFIX6:(10+K), the LAN itself LAN_PREFIX6:1.
readonly LAN_PREFIX6=fd00:99:

say() { printf '%s\n' "$*" >&2; }
die() {
  printf 'cluster: %s\n' "$*" >&2
  exit 1
}

# need TOOL:PACKAGE… : fails naming the Debian packages of the tools not found.
need() {
  local pair missing=()
  for pair in "$@"; do
    type -P "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  ((${#missing[@]} == 0)) || die "missing tools; install them with: apt-get install -y ${missing[*]}"
}

# state_init: resolves CLUSTER_DIR and derives the cluster's identity from it.
# CG is the cgroup (below each hierarchy's root) that holds every process of the
# cluster: because the name follows from the path alone, `down` finds what a
# killed `up` left, recorded or not.
state_init() {
  CLUSTER_DIR=$(realpath -m "${CLUSTER_DIR:-$REPO/.run/cluster}")
  [[ $CLUSTER_DIR != / && $CLUSTER_DIR != "$REPO" ]] || die "CLUSTER_DIR must be a directory of its own, not $CLUSTER_DIR"
  # The path becomes part of mount options and of socat's address syntax.
  [[ $CLUSTER_DIR =~ ^[A-Za-z0-9/._+@=-]+$ ]] || die "CLUSTER_DIR has characters other than letters, digits and / . _ + @ = -: $CLUSTER_DIR"
  local sum
  sum=$(printf '%s' "$CLUSTER_DIR" | sha256sum)
  CLUSTER_ID=${sum:0:10}
  # shellcheck disable=SC2034 # used by the other parts
  CG=limpet-test-$CLUSTER_ID
}

# state_lock: one creating or destroying command at a time, on the directory
# itself so that no lock file outlives `down`. Long-lived children close fd 9.
state_lock() {
  while :; do
    mkdir -p "$CLUSTER_DIR"
    exec 9<"$CLUSTER_DIR"
    flock -w 60 9 || die "another command holds the lock of $CLUSTER_DIR for 60 s; see: fuser $CLUSTER_DIR"
    # The previous holder may have been a `down`, which removed the directory.
    [[ $(stat -Lc %i /proc/self/fd/9) == "$(stat -c %i "$CLUSTER_DIR" 2>/dev/null)" ]] && return
    exec 9<&-
  done
}
state_unlock() { exec 9<&-; }

# put NAME VALUE, get NAME [DEFAULT]: one value per file below CLUSTER_DIR; a
# reader never sees half of it.
put() {
  printf '%s\n' "$2" >"$CLUSTER_DIR/$1.new"
  mv "$CLUSTER_DIR/$1.new" "$CLUSTER_DIR/$1"
}
get() {
  local v=${2-}
  [[ ! -r $CLUSTER_DIR/$1 ]] || read -r v <"$CLUSTER_DIR/$1" || true
  printf '%s' "$v"
}

# nodes prints the names of the cluster's nodes, in order.
nodes() {
  local d
  for d in "$CLUSTER_DIR"/n[0-9]*/; do
    [[ ! -d $d ]] || basename "$d"
  done | sort -V
}

node_name_ok() { [[ $1 =~ ^n([1-9][0-9]?)$ ]] || die "node names are n1 … n99, not '$1'"; }
node_known() {
  node_name_ok "$1"
  [[ -d $CLUSTER_DIR/$1 ]] || die "no node $1 in $CLUSTER_DIR (nodes: $(nodes | paste -sd' '))"
}
node_ip() { printf '%s.%d' "$LAN_PREFIX" $((10 + ${1#n})); }
node_ip6() { printf '%s:%d' "$LAN_PREFIX6" $((10 + ${1#n})); }

# await SECONDS COMMAND…: tries the command every 20 ms; false when time is up.
# Only for things that announce themselves by no event a shell can wait on.
await() {
  local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
  shift
  until "$@"; do
    ((${EPOCHREALTIME/[.,]/} < end)) || return 1
    sleep 0.02
  done
}

# ready_open DIR, ready_wait DIR SECONDS: a child announces itself by one line in
# the fifo DIR/ready; ready_wait leaves that line in READY_LINE.
ready_open() {
  rm -f "$1/ready"
  mkfifo -m 0600 "$1/ready"
  exec 8<>"$1/ready"
}
ready_wait() {
  READY_LINE=
  IFS= read -r -t "$2" READY_LINE <&8 || true
  exec 8<&-
  rm -f "$1/ready"
  [[ -n $READY_LINE ]]
}
