#!/usr/bin/env bash
# init.sh enter|boot NODE-DIR NODE READY-FIFO: process 1 of a node, in new mount,
# pid, uts, ipc, net and cgroup namespaces. Started as `enter` in the node's
# cgroup, it makes that the root of a cgroup namespace, steps below it (a v2
# cgroup with processes cannot delegate) and becomes `boot`: that builds the node's
# view of the machine, pivots into its disk, announces "up HOST-PID" and then is
# the node's service manager, which starts limpet as systemd would with
# KillMode=process (limpet's death ends limpet alone) and reaps orphans. A machine of
# scripts/machine (NODE-DIR/machine exists) has a disk with a whole system instead, and
# that system's systemd, or its own init, becomes process 1.
set -euo pipefail

stage=$1 dir=$2 node=$3 ready=$4
root=$dir/disk

# The machine's /run is in view at first: mount(8) must not keep its table there.
mount() { command mount -n "$@"; }

# ro_bind PATH…: makes what exists of them read-only, in this namespace.
ro_bind() {
  local p
  for p in "$@"; do
    [[ -e $p ]] || continue
    mount --bind "$p" "$p"
    mount -o remount,bind,ro "$p"
  done
}

mount_disk() {
  if [[ -e $dir/disk.img ]]; then
    mount -o loop "$dir/disk.img" "$root" # the loop device frees itself with the namespace
  else
    mount --bind "$root" "$root"
  fi
}

# populate: the files of a fresh machine; what exists (a reboot) stays.
populate() {
  local f
  mkdir -p "$root"/{dev,etc/ssl,home,media,mnt,opt,proc,run,srv,sys,tmp,usr,var/{lib,log,tmp,cache,spool}}
  install -d -m 0700 "$root/root"
  chmod 1777 "$root/tmp" "$root/var/tmp"
  ln -sfn /run "$root/var/run"
  for f in passwd group nsswitch.conf protocols services ld.so.cache ld.so.conf ld.so.conf.d alternatives ssl/certs ca-certificates.conf localtime; do
    [[ ! -e /etc/$f || -e $root/etc/$f ]] || cp -a "/etc/$f" "$root/etc/$f"
  done
  [[ -e $root/etc/machine-id ]] || tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
  ln -sfn ../usr/lib/os-release "$root/etc/os-release"
  printf '%s\n' "$node" >"$root/etc/hostname"
  [[ -e $root/etc/resolv.conf ]] || cp "$dir/resolv.conf" "$root/etc/resolv.conf"
  printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n' "$(<"$dir/ip")" "$node" >"$root/etc/hosts"
}

# mount_usr: the machine's programs, read-only, with the node's own limpet.
mount_usr() {
  local d
  mount --bind /usr "$root/usr"
  mount -o remount,bind,ro "$root/usr"
  for d in bin sbin lib lib32 lib64 libx32; do
    if [[ -L /$d ]]; then
      ln -sfn "$(readlink "/$d")" "$root/$d"
    elif [[ -d /$d ]]; then
      mkdir -p "$root/$d"
      mount --bind "/$d" "$root/$d"
      mount -o remount,bind,ro "$root/$d"
    fi
  done
  mount --bind "$dir/bin" "$root/usr/local/bin"
  mount -o remount,bind,ro "$root/usr/local/bin"
}

# mount_dev: the devices a container runtime needs; none of the machine's disks.
mount_dev() {
  local d=$root/dev name type major minor
  mount -t tmpfs -o mode=0755,nosuid dev "$d"
  mkdir -p "$d"/{pts,shm,mqueue,net}
  while read -r name type major minor; do
    mknod -m 0666 "$d/$name" "$type" "$major" "$minor"
  done <<'END'
null c 1 3
zero c 1 5
full c 1 7
random c 1 8
urandom c 1 9
tty c 5 0
fuse c 10 229
net/tun c 10 200
END
  mknod -m 0644 "$d/kmsg" c 1 11 # the kubelet's OOM watcher reads it
  mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$d/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev shm "$d/shm"
  mount -t mqueue mqueue "$d/mqueue"
  ln -s pts/ptmx "$d/ptmx"
  ln -s /proc/self/fd "$d/fd"
  ln -s /proc/self/fd/0 "$d/stdin"
  ln -s /proc/self/fd/1 "$d/stdout"
  ln -s /proc/self/fd/2 "$d/stderr"
}

# mount_proc_sys: /proc and /sys in which the machine's settings cannot be changed.
# Every sysctl but net.* (which belongs to the node's network namespace) is
# read-only; the few that the kubelet insists on writing are private files, and
# so is the boot ID, which tells the kubelet that a reboot was one.
# A user namespace may mount /proc and /sys only where a complete one is visible
# (mount_too_revealing in fs/namespace.c), which pods with hostUsers:false need:
# so a second, unmasked mount of both is in /run/node/full (as LXC has in /dev/.lxc).
mount_proc_sys() {
  local p f
  mkdir -p "$root"/run/node/full/{proc,sys}
  for p in "$root/proc" "$root/run/node/full/proc"; do
    mount -t proc -o nosuid,nodev,noexec proc "$p"
  done
  for p in "$root/sys" "$root/run/node/full/sys"; do
    mount -t sysfs -o nosuid,nodev,noexec sysfs "$p"
  done
  chmod 0700 "$root/run/node/full"
  echo "$node" >/proc/sys/kernel/hostname # the UTS namespace's
  for p in "$root"/proc/sys/*; do
    [[ $p == */net ]] || ro_bind "$p"
  done
  ro_bind "$root/proc/sysrq-trigger" "$root"/sys/{kernel,module,power,firmware}
  mkdir -p "$root/run/node/sysctl"
  for f in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes kernel/random/boot_id; do
    [[ -e /proc/sys/$f ]] || continue
    cat "/proc/sys/${f/boot_id/uuid}" >"$root/run/node/sysctl/${f//\//.}"
    mount --bind "$root/run/node/sysctl/${f//\//.}" "$root/proc/sys/$f"
  done
}

# enter_scope: moves this process below the node's cgroup, in every hierarchy.
enter_scope() {
  local mnt
  while read -r _ mnt _; do
    echo $$ >"$mnt/$CGROUP/init.scope/cgroup.procs"
  done <"$dir/cgroups"
}

# mount_cgroups: the machine's hierarchies, rooted at this cgroup namespace.
mount_cgroups() {
  local kind mnt opts c base=$root/sys/fs/cgroup
  if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$base"
    for c in $(<"$base/cgroup.controllers"); do
      echo "+$c" >"$base/cgroup.subtree_control" || echo "controller $c is not available" >&2
    done
    return
  fi
  mount -t tmpfs -o mode=0755,nosuid,nodev,noexec cgroup "$base"
  while read -r kind mnt opts; do
    mnt=$base/${mnt##*/}
    mkdir "$mnt"
    if [[ $kind == v2 ]]; then
      mount -t cgroup2 cgroup2 "$mnt"
      continue
    fi
    mount -t cgroup -o "$opts" cgroup "$mnt"
    for c in ${opts//,/ }; do # cpu -> cpu,cpuacct
      [[ $c == none || $c == name=* || -e $base/$c ]] || ln -s "${mnt##*/}" "$base/$c"
    done
  done <"$dir/cgroups"
}

# run_limpet: one run of the unit, as asked for in /run/node by the outside:
# argv and env (NUL-separated) in, limpet.pid and limpet.exit out.
run_limpet() {
  local -a argv env
  local p
  mapfile -d '' -t argv </run/node/argv
  mapfile -d '' -t env </run/node/env
  (
    for p in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do
      [[ ! -e $p || -L ${p%/*} || ! -d ${p%/*}/limpet.service ]] || echo "$BASHPID" >"${p%/*}/limpet.service/cgroup.procs"
    done
    # Not before: who reads it looks for the process in the control group.
    echo "$BASHPID" >/run/node/limpet.pid
    cd /
    exec env -i "${env[@]}" "${argv[@]}" </dev/null >&4 2>&4 3>&- 4>&-
  ) &
  local status=0
  wait $! || status=$?
  echo "$status" >/run/node/limpet.exit.new
  mv /run/node/limpet.exit.new /run/node/limpet.exit
}

if [[ $stage == enter ]]; then
  enter_scope
  # Without CAP_SYS_TIME: the clock is the machine's.
  exec unshare --mount --pid --uts --ipc --net --fork --kill-child -- \
    setpriv --bounding-set -sys_time bash "$0" boot "$dir" "$node" "$ready"
fi

read -r host_pid _ </proc/self/stat # this /proc is still the machine's
exec 4>>"$dir/limpet.log" 5>"$ready"
mount --make-rprivate /
mount_disk
populate
machine=''
if [[ -e $dir/machine ]]; then machine=1; else mount_usr; fi
mount -t tmpfs -o mode=0755,nosuid,nodev run "$root/run"
mkdir -p "$root"/run/{lock,node}
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
mount_dev
mount_proc_sys
mount_cgroups

mkdir -p "$root/.old"
cd "$root"
pivot_root . .old
hash -r # the programs are the disk's now, and may be elsewhere
umount -n -l /.old
rmdir /.old
mount --make-rshared / # as systemd has it; mountPropagation needs it
echo 0 >/proc/sys/net/ipv4/ip_forward

if [[ -n $machine ]]; then
  echo "up $host_pid" >&5
  exec 4>&- 5>&-
  # The variable tells systemd, and OpenRC, that they need not set up a whole computer.
  paths=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  [[ ! -x /lib/systemd/systemd ]] || exec env -i container=limpet-test "$paths" /lib/systemd/systemd
  exec env -i container=lxc "$paths" /sbin/init
fi

mkfifo -m 0600 /run/node/ctl
exec 3<>/run/node/ctl
echo "up $host_pid" >&5
exec 5>&-
while read -r command <&3; do
  [[ $command != start ]] || run_limpet &
done
