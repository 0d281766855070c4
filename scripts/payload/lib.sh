# shellcheck shell=bash disable=SC2034,SC2154 # variables cross files
# What `build` and `lock` share: the architectures, and Debian packages fetched
# without touching this machine's own apt and dpkg. Source it with $root set.

cache=$root/.cache
lockfile=$root/scripts/payload/debs.lock

# What nft needs at run time, loader included, and the static library for runc.
packages=(nftables libnftables1 libnftnl11 libmnl0 libjansson4 libgmp10 libxtables12
  libedit2 libbsd0 libmd0 libtinfo6 libc6 libseccomp-dev)

die() {
  echo "payload: $*" >&2
  exit 1
}

# set_arch ARCH fills the variables below from Go's name of an architecture.
set_arch() {
  case $1 in
    amd64) debarch=amd64 triplet=x86_64-linux-gnu machine='Advanced Micro Devices X86-64' qemu=x86_64 cflags=() ;;
    arm64) debarch=arm64 triplet=aarch64-linux-gnu machine=AArch64 qemu=aarch64 cflags=() ;;
    arm) debarch=armhf triplet=arm-linux-gnueabihf machine=ARM qemu=arm cflags=(-marm) ;;
    *) die "unknown architecture $1: amd64, arm64 or arm" ;;
  esac
  arch=$1
  cc=$triplet-gcc
}

# apt_private DEBARCH sets APT_CONFIG to an apt of its own for one architecture:
# the host's sources and keys, but private lists and an empty dpkg status.
apt_private() {
  local dir=$cache/apt/$1
  mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial"
  : >"$dir/status"
  cat >"$dir/apt.conf" <<CONF
Dir::State "$dir/state";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
APT::Architecture "$1";
#clear APT::Architectures;
APT::Architectures { "$1"; };
#clear DPkg::Post-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
  export APT_CONFIG=$dir/apt.conf
}

# apt_update refreshes the private lists. A source of the host that does not have
# this architecture is no failure: what matters is whether the packages are found.
apt_update() {
  echo "payload: reading Debian's package lists for $1" >&2
  apt-get -qq update >&2 || echo "payload: some package sources could not be read (see above); going on" >&2
}

# deb_file DEBARCH PACKAGE VERSION prints where the package is kept; the name is apt's.
deb_file() {
  echo "$cache/debs/$2_${3//:/%3a}_$1.deb"
}

# deb_fetch DEBARCH PACKAGE VERSION downloads one package unless it is there.
deb_fetch() {
  local file
  file=$(deb_file "$@")
  [[ -s $file ]] && return
  mkdir -p "$cache/debs"
  (
    apt_private "$1"
    cd "$cache/debs"
    apt-get -qq download "$2=$3" >/dev/null 2>&1 && exit
    apt_update "$1"
    apt-get -qq download "$2=$3" >&2
  ) && [[ -s $file ]] && return
  die "Debian's $2 $3 ($1) cannot be downloaded.
  If this machine's mirror is out of reach, try again later. If the mirror no longer has this
  version (a Debian update replaced it), run scripts/payload/lock, review and commit debs.lock."
}
