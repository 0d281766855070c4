# shellcheck shell=bash
# cgroup.sh: the cgroup subtree of a cluster, on v1 (separate or combined
# hierarchies, hybrid) and on v2 (unified) as found at run time.

# cg_list prints one line per mounted hierarchy: "v1|v2 MOUNTPOINT OPTIONS".
# OPTIONS are what mounts the same v1 hierarchy again ("cpu,cpuacct",
# "none,name=systemd"); "-" for v2.
cg_list() {
  local line pre post mnt opts o keep
  local -a f
  while IFS= read -r line; do
    pre=${line%% - *} post=${line#* - }
    [[ ${post%% *} == cgroup || ${post%% *} == cgroup2 ]] || continue
    read -ra f <<<"$pre"
    mnt=${f[4]}
    [[ $mnt == /sys/fs/cgroup* ]] || continue
    if [[ ${post%% *} == cgroup2 ]]; then
      printf 'v2 %s -\n' "$mnt"
      continue
    fi
    keep=
    opts=${post##* }
    for o in ${opts//,/ }; do
      case $o in
        rw | ro | xattr | noprefix | clone_children | cpuset_v2_mode | favordynmods | release_agent=*) ;;
        name=*) keep+=,none,$o ;;
        *) keep+=,$o ;;
      esac
    done
    printf 'v1 %s %s\n' "$mnt" "${keep#,}"
  done </proc/self/mountinfo | sort -u -k2,2
}

# cg_unified: true when the machine runs cgroup v2 only.
cg_unified() { [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; }

# cg_each COMMAND…: runs COMMAND KIND MOUNTPOINT for every hierarchy.
cg_each() {
  local kind mnt _
  while read -r kind mnt _; do
    "$@" "$kind" "$mnt"
  done <<<"$CG_LIST"
}

# cg_make PATH: creates PATH and its parents in every hierarchy.
cg_make() { cg_each cg_make_in "$1"; }
cg_make_in() {
  local path=$1 kind=$2 dir=$3 part
  local -a parts
  IFS=/ read -ra parts <<<"$path"
  for part in "${parts[@]}"; do
    # A node delegates by itself (init.sh), when no process is in its cgroup any more.
    [[ $kind == v1 || $dir == */$CG/* ]] || ! cg_unified || cg_delegate "$dir"
    mkdir -p "$dir/$part"
    # A new v1 cpuset is empty and accepts no process before it is filled.
    if [[ -e $dir/$part/cpuset.cpus && $kind == v1 ]]; then
      [[ -n $(<"$dir/$part/cpuset.cpus") ]] || cat "$dir/cpuset.cpus" >"$dir/$part/cpuset.cpus"
      [[ -n $(<"$dir/$part/cpuset.mems") ]] || cat "$dir/cpuset.mems" >"$dir/$part/cpuset.mems"
    fi
    dir+=/$part
  done
}

# cg_delegate DIR: enables every controller of a v2 cgroup for its children.
# What had to be enabled in the machine's root is recorded for `down`.
cg_delegate() {
  local dir=$1 c have
  have=" $(<"$dir/cgroup.subtree_control") "
  for c in $(<"$dir/cgroup.controllers"); do
    [[ $have == *" $c "* ]] && continue
    if echo "+$c" >"$dir/cgroup.subtree_control" 2>/dev/null && [[ $dir == /sys/fs/cgroup ]]; then
      printf '%s\n' "$c" >>"$CLUSTER_DIR/cgroup.enabled"
    fi
  done
}

# cg_undelegate: takes back what cg_delegate enabled in the root; the kernel
# refuses it (rightly, and we ignore that) while another cgroup uses it.
cg_undelegate() {
  local c
  [[ -r $CLUSTER_DIR/cgroup.enabled ]] || return 0
  while read -r c; do
    echo "-$c" 2>/dev/null >/sys/fs/cgroup/cgroup.subtree_control || true
  done <"$CLUSTER_DIR/cgroup.enabled"
}

# cg_enter PATH: moves the calling (sub)shell into PATH in every hierarchy.
cg_enter() { cg_each cg_enter_in "$1"; }
cg_enter_in() { echo "$BASHPID" >"$3/$1/cgroup.procs"; }

# cg_pids PATH: the processes below PATH in any hierarchy, one pid a line.
cg_pids() { cg_each cg_pids_in "$1" | sort -un; }
cg_pids_in() {
  [[ ! -d $3/$1 ]] || find "$3/$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true
}

# cg_kill PATH: SIGKILL to everything below PATH until nothing is left.
cg_kill() {
  local pids end=$((SECONDS + 20))
  while :; do
    mapfile -t pids < <(cg_pids "$1")
    ((${#pids[@]})) || return 0
    ((SECONDS < end)) || die "processes of $1 do not end: ${pids[*]}"
    kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.05
  done
}

# cg_remove PATH: removes the subtree in every hierarchy. A cgroup stays busy
# for a moment after its last process: retried for 10 s.
cg_remove() {
  await 10 cg_removed "$1" || die "cgroups of $1 cannot be removed: $(cg_each cg_left_in "$1" | head -3 | paste -sd' ')"
}
cg_removed() {
  cg_each cg_rmdir_in "$1"
  [[ -z $(cg_each cg_left_in "$1") ]]
}
cg_rmdir_in() { [[ ! -d $3/$1 ]] || find "$3/$1" -depth -type d -exec rmdir {} \; 2>/dev/null || true; }
cg_left_in() { [[ ! -d $3/$1 ]] || echo "$3/$1"; }
