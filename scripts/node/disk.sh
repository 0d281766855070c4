# shellcheck shell=bash
# disk.sh: a node's disk. It is a directory (or, with --node-fs-size, an ext4
# image) that becomes the node's root by pivot_root, so that nothing of the
# machine's files can be written from a node; only the machine's /usr is seen,
# read-only. It is a real directory and not an overlay of the host's root
# because overlayfs (containerd's snapshots) cannot have another overlayfs as
# its upper layer. The disk outlives `reboot`.

# disk_create NODE SIZE: makes the disk; SIZE (as of truncate -s) empty: a directory.
disk_create() {
  local node=$1 size=$2 dir=$CLUSTER_DIR/$1
  mkdir -p "$dir/disk" "$dir/bin"
  if [[ -n $size ]]; then
    truncate -s "$size" "$dir/disk.img"
    mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,lazy_journal_init=1 "$dir/disk.img" ||
      die "mkfs.ext4 of $size for node $node failed"
  fi
}

# disk_binary NODE: puts the limpet binary into the node's /usr/local/bin. A copy:
# a running cluster must not change when the binary is built again.
disk_binary() {
  local dir=$CLUSTER_DIR/$1/bin name
  [[ $(stat -Lc %s.%y "$LIMPET_BIN") != "$(stat -c %s.%y "$dir/limpet" 2>/dev/null)" ]] || return 0
  cp -L --preserve=timestamps,mode --reflink=auto "$LIMPET_BIN" "$dir/.limpet.new"
  mv -f "$dir/.limpet.new" "$dir/limpet"
  for name in kubectl ctr; do
    ln -sfn limpet "$dir/$name"
  done
}
