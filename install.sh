#!/bin/sh
# Installs limpet, or brings an installed one up to date. `sh install.sh --help`
# prints what can be set; docs/install.md explains it.
#
# What has been downloaded is neither executed nor put in place before its signature
# was checked. Everything new is written beside its target first and renamed at the
# end; whatever fails before that end is undone.
#
# The script is one set of functions and one call in its last line: a download of it
# that breaks off runs nothing.
set -eu
umask 022

# The key that signs releases, as minisign prints it; `make package` writes it here.
RELEASE_KEY=''
RELEASE_URL='https://github.com/limpetio/limpet/releases/download'

# Room for the binary where it is put, in KiB, when its size is not known yet.
BINARY_KIB=262144

help() {
  cat <<'END'
Installs limpet, or brings an installed one up to date. Run it as root.

  curl -sfL URL/install.sh | sh -                          a server: a cluster of its own
  curl -sfL URL/install.sh | LIMPET_URL=https://10.0.0.5:6443 LIMPET_TOKEN=… sh -
                                                           an agent, which joins that server
  curl -sfL URL/install.sh | sh -s - server --tls-san a.example.com
                                                           with flags of `limpet server`
  ./install.sh                                             from an unpacked limpet-airgap archive

With neither arguments nor LIMPET_* variables, an installed service keeps the ones it
has. Otherwise every LIMPET_* and proxy variable goes to the service's environment file.

  LIMPET_URL                    server to join; makes this an agent
  INSTALL_LIMPET_VERSION        version to install, as v1.2.3
  INSTALL_LIMPET_CHANNEL        whose latest version to install (stable)
  INSTALL_LIMPET_ARTIFACT_URL   where releases are: URL/VERSION/FILE and URL/CHANNEL/latest
  INSTALL_LIMPET_PUBLIC_KEY     minisign key that the release is signed with
  INSTALL_LIMPET_SKIP_DOWNLOAD  true: use the files beside this script, or the installed binary
  INSTALL_LIMPET_EXEC           command and flags of the service, if not given as arguments
  INSTALL_LIMPET_NAME           name of the service: limpet-NAME
  INSTALL_LIMPET_BIN_DIR        where the binary goes (/usr/local/bin; /opt/bin if that is read-only)
  INSTALL_LIMPET_SYSTEMD_DIR    where the unit goes (/etc/systemd/system)
  INSTALL_LIMPET_SYMLINK        kubectl and ctr as links to limpet: skip, force, or only if
                                there is no such command (default)
  INSTALL_LIMPET_SKIP_ENABLE    true: do not start at boot
  INSTALL_LIMPET_SKIP_START     true: do not start now
  INSTALL_LIMPET_FORCE_RESTART  true: restart even when nothing has changed
  INSTALL_LIMPET_START_TIMEOUT  seconds until a start that is not done counts as failed (300)
END
}

# --- talking -----------------------------------------------------------------------

say() { printf '%s\n' "  $*"; }
step() { printf '%s\n' "* $*"; }
warn() { printf '%s\n' "! $*" >&2; }
die() {
  printf '%s\n' "install.sh: $*" >&2
  exit 1
}

yes() {
  case ${1-} in
    true | yes | 1 | on) return 0 ;;
    '' | false | no | 0 | off) return 1 ;;
    *) die "$2 is '$1', but takes true or false" ;;
  esac
}
have() { command -v "$1" >/dev/null 2>&1; }

# --- undoing -----------------------------------------------------------------------

# WORK holds small files of this run. UNDO lists, one a line, how to take back what was
# done: ACTION<tab>PATH<tab>PATH. It is read from its end.
WORK='' UNDO='' LOCKED='' DONE=''

undo_later() { printf '%s\t%s\t%s\n' "$1" "${2-}" "${3-}" >>"$UNDO"; }

undo() {
  [ -n "$UNDO" ] && [ -s "$UNDO" ] || return 0
  sed -n '1!G;h;$p' "$UNDO" >"$UNDO.reversed"
  : >"$UNDO"
  while IFS="$TAB" read -r action a b; do
    case $action in
      remove) rm -f "$a" ;;
      restore) mv -f "$b" "$a" ;;
      rmdir) rmdir "$a" 2>/dev/null || : ;;
      disable) service_disable || : ;;
      stop) service_stop || : ;;
      reload) service_reload || : ;;
      restart) service_restart || : ;;
    esac
  done <"$UNDO.reversed"
}

cleanup() {
  status=$?
  trap - EXIT HUP INT TERM
  set +e
  [ -z "${STAGED-}" ] || rm -rf "$STAGED"
  if [ -z "$DONE" ] && [ "$status" -ne 0 ] && [ -n "$UNDO" ]; then
    undo
    printf '%s\n' "install.sh: the machine is as it was before" >&2
  fi
  [ -z "$WORK" ] || rm -rf "$WORK"
  [ -z "$LOCKED" ] || rm -rf "$LOCK"
  exit "$status"
}

# --- the machine -------------------------------------------------------------------

LOCK=/run/limpet-install.lock

# started PID: when that process was started, in ticks; empty: there is none.
started() { [ ! -r "/proc/$1/stat" ] || sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

lock() {
  [ -d /run ] || LOCK=/var/run/limpet-install.lock
  tries=0
  until mkdir "$LOCK" 2>/dev/null; do
    [ -d "$LOCK" ] || die "cannot create $LOCK"
    sleep 1 # for whoever has just made it to say who it is
    owner=$(cat "$LOCK/owner" 2>/dev/null || :)
    if [ -n "$owner" ] && [ "$(started "${owner% *}")" = "${owner#* }" ]; then
      die "another installation is running (process ${owner% *}); wait for its end, then run this again"
    fi
    tries=$((tries + 1))
    [ "$tries" -le 3 ] || die "$LOCK cannot be taken; remove it if no other installation runs"
    # Its owner was killed. Whoever renames it first removes it.
    ! mv "$LOCK" "$LOCK.$$" 2>/dev/null || rm -rf "$LOCK.$$"
  done
  LOCKED=1
  printf '%s\n' "$$ $(started $$)" >"$LOCK/owner"
}

detect_arch() {
  machine=$(uname -m) || die "uname -m does not say what architecture this is"
  case $machine in
    x86_64 | amd64) ARCH=amd64 ;;
    aarch64 | arm64) ARCH=arm64 ;;
    armv7* | armv8*) ARCH=arm ;;
    *) die "there is no limpet for the architecture '$machine'; there is one for x86_64, aarch64 and armv7" ;;
  esac
}

detect_init() {
  if [ -d /run/systemd/system ]; then
    INIT=systemd
    have systemctl || die "systemd runs here, but there is no systemctl in PATH"
  elif have openrc-run || [ -x /sbin/openrc-run ]; then
    INIT=openrc
    if ! have rc-service || ! have rc-update; then die "openrc is here, but no rc-service and rc-update in PATH"; fi
  else
    INIT=none
  fi
}

# writable DIR: files can be made there, or in the nearest parent that exists.
writable() {
  place=$1
  while [ ! -d "$place" ]; do
    [ ! -e "$place" ] || return 1
    place=$(dirname "$place")
  done
  probe=$place/.limpet-install.probe.$$
  (: >"$probe") 2>/dev/null && rm -f "$probe"
}

choose_bin_dir() {
  BIN_DIR=${INSTALL_LIMPET_BIN_DIR-}
  if [ -n "$BIN_DIR" ]; then
    case $BIN_DIR in /*) ;; *) die "INSTALL_LIMPET_BIN_DIR is '$BIN_DIR', but takes an absolute path" ;; esac
    writable "$BIN_DIR" || die "$BIN_DIR cannot be written to; choose another with INSTALL_LIMPET_BIN_DIR"
  elif writable /usr/local/bin; then
    BIN_DIR=/usr/local/bin
  elif writable /opt/bin; then
    BIN_DIR=/opt/bin
    say "/usr/local/bin cannot be written to: the binary goes to /opt/bin"
  else
    die "neither /usr/local/bin nor /opt/bin can be written to; choose a directory with INSTALL_LIMPET_BIN_DIR"
  fi
}

# make_dir DIR: with its parents, each of which is removed again when this fails.
make_dir() {
  [ ! -d "$1" ] || return 0
  make_dir "$(dirname "$1")"
  mkdir "$1" || die "cannot create $1"
  undo_later rmdir "$1"
  case $1 in /*/*) printf '%s/\n' "$1" >>"$WORK/record" ;; esac
}

# room DIR KIB WHAT: refuses when the file system of DIR has no such room.
room() {
  place=$1
  while [ ! -d "$place" ]; do place=$(dirname "$place"); done
  free=$(df -Pk "$place" 2>/dev/null | awk 'NR == 2 { print $4 }')
  [ -n "$free" ] || return 0
  [ "$free" -ge "$2" ] || die "$place has $((free / 1024)) MiB free, but $3 needs $(($2 / 1024 + 1)) MiB; make room, or choose another place with INSTALL_LIMPET_BIN_DIR"
}

sum_of() {
  if have sha256sum; then
    sha256sum <"$1" | cut -d' ' -f1
  elif have openssl; then
    openssl dgst -sha256 -r <"$1" | cut -d' ' -f1
  else
    die "there is neither sha256sum nor openssl to compare checksums with"
  fi
}

# --- the release -------------------------------------------------------------------

# download URL FILE [big]: fails when not all of it comes.
download() {
  quiet=-sS
  [ -z "${3-}" ] || ! [ -t 2 ] || quiet=-#
  for try in 1 2 3 4; do
    code=0
    if have curl; then
      # What came before the line broke is kept.
      curl -fL $quiet -C - --connect-timeout 20 --speed-limit 1 --speed-time 60 -o "$2" "$1" || code=$?
    elif have wget; then
      # GNU's wget would try twenty times by itself. The one of busybox knows no such
      # option, and may have been built without -T: then it crashes when it is told that.
      case $(wget --help 2>&1 || :) in
        *--tries*) options='-T 60 --tries=1' ;;
        *' SEC '*) options='-T 60' ;;
        *) options='' ;;
      esac
      # shellcheck disable=SC2086 # options or nothing
      wget -q -c $options -O "$2" "$1" || code=$?
    else
      die "there is neither curl nor wget to download with; install one, or carry the limpet-airgap archive here"
    fi
    case $code in
      0) return 0 ;;
      22 | 23 | 8) break ;; # curl: refused, cannot write; wget: refused
      33) rm -f "$2" ;; # the server knows no ranges
    esac
    full "$2"
    [ $try = 4 ] || sleep $try
  done
  full "$2"
  die "cannot get $1; is the machine online, are the version and the proxy right?"
}

# full FILE: says it if the disk of FILE is what failed.
full() {
  free=$(df -Pk "$(dirname "$1")" 2>/dev/null | awk 'NR == 2 { print $4 }')
  [ "${free:-99999}" -ge 1024 ] || die "the disk of $(dirname "$1") is full"
}

# field FILE LINE FROM COUNT: bytes of a line of base64, into stdout.
field() { sed -n "${2}p" "$1" | decode | tail -c "+$3" | head -c "$4"; }
decode() { if have base64; then base64 -d; else openssl base64 -d -A; fi; }

# by_openssl SUMS SIGNATURE: minisign's plain signature is ed25519 over the bytes. Lines
# are an algorithm (2 bytes), the number of the key (8), and the key (32) or signature (64).
by_openssl() {
  [ "$(field "$2" 2 1 2)" = Ed ] || return 1
  printf '%s\n' "$KEY" >"$WORK/key"
  [ "$(field "$2" 2 3 8 | od -An -tx1)" = "$(field "$WORK/key" 1 3 8 | od -An -tx1)" ] || return 1
  # The DER of an ed25519 public key is a constant and the key.
  { printf '\060\052\060\005\006\003\053\145\160\003\041\000' && field "$WORK/key" 1 11 32; } >"$WORK/key.der"
  field "$2" 2 11 64 >"$WORK/signature"
  openssl pkeyutl -verify -pubin -inkey "$WORK/key.der" -keyform DER -rawin -in "$1" -sigfile "$WORK/signature" >/dev/null 2>&1
}

# verify SUMS: with SUMS.minisig beside it, by a program that was here before.
verify() {
  KEY=$(printf '%s\n' "${INSTALL_LIMPET_PUBLIC_KEY:-$RELEASE_KEY}" | tail -n 1)
  [ -n "$KEY" ] || die "this install.sh has no key to check the release with (it is not a released one); set INSTALL_LIMPET_PUBLIC_KEY"
  [ -s "$1.minisig" ] || die "$1.minisig is missing: the release is not signed"
  if have openssl && openssl pkeyutl -help 2>&1 | grep -q -e -rawin; then
    by=openssl && by_openssl "$1" "$1.minisig" || by=''
  elif have minisign; then
    by=minisign && minisign -Vqm "$1" -x "$1.minisig" -P "$KEY" >/dev/null 2>&1 || by=''
  elif [ -x "$BIN_DIR/limpet" ]; then
    by='the installed limpet' && "$BIN_DIR/limpet" verify --public-key "$KEY" "$1" >/dev/null 2>&1 || by=''
  else
    die "nothing here can check the release's signature; install openssl (3.0 or later) or minisign, then run this again"
  fi
  [ -n "$by" ] || die "the signature of the release does not match: it was changed, or is not by $KEY. Nothing of it was used"
  say "signature checked by $by"
}

# listed NAME: its checksum in the verified sums; empty: it has none.
listed() { awk -v name="$1" '$2 == name || $2 == "*" name { print $1; exit }' "$WORK/sha256sums"; }

# check FILE NAME: FILE is what the verified sums list as NAME.
check() {
  [ -n "$(listed "$2")" ] || die "the release's signed checksums do not list $2"
  [ "$(sum_of "$1")" = "$(listed "$2")" ] || die "$2 is damaged or was changed: its checksum is not the signed one. Nothing of it was used"
}

# newer A B: version A is newer than B; a pre-release is older than its release.
newer() {
  [ "$1" != "$2" ] || return 1
  case $1 in "${2%%-*}-"*) [ "${2%%-*}" != "$2" ] || return 1 ;; esac
  case $2 in "${1%%-*}-"*) [ "${1%%-*}" != "$1" ] || return 0 ;; esac
  [ "$(printf '%s\n' "$1" "$2" | sort -V | tail -n 1)" = "$1" ]
}

# get_release: sets FROM (a directory or URL without its last slash, empty: the installed
# binary), VERSION, and leaves verified sums in WORK.
get_release() {
  here=''
  case $0 in
    *install.sh) here=$(cd "$(dirname "$0")" && pwd) ;;
  esac
  FROM=''
  skip=''
  ! yes "${INSTALL_LIMPET_SKIP_DOWNLOAD-}" INSTALL_LIMPET_SKIP_DOWNLOAD || skip=1
  [ -n "$skip" ] || [ -z "${INSTALL_LIMPET_VERSION-}${INSTALL_LIMPET_CHANNEL-}${INSTALL_LIMPET_ARTIFACT_URL-}" ] || here=''
  if [ -n "$here" ] && [ -s "$here/sha256sums" ] && [ -s "$here/limpet-$ARCH" ]; then
    FROM=$here
    step "installing from the files in $FROM"
    for name in sha256sums sha256sums.minisig version; do
      [ -s "$FROM/$name" ] || die "$FROM/$name is missing: unpack the archive again"
      cp "$FROM/$name" "$WORK/$name"
    done
  elif [ -n "$skip" ]; then
    [ -x "$BIN_DIR/limpet" ] || die "INSTALL_LIMPET_SKIP_DOWNLOAD is set, but $BIN_DIR/limpet is not there, and no limpet-$ARCH with its checksums beside this script"
    VERSION=$("$BIN_DIR/limpet" --version | sed -n '1s/^limpet \([^ ]*\).*/\1/p')
    step "using the installed $BIN_DIR/limpet, $VERSION"
    return
  else
    base=${INSTALL_LIMPET_ARTIFACT_URL:-$RELEASE_URL}
    base=${base%/}
    wanted=${INSTALL_LIMPET_VERSION-}
    if [ -z "$wanted" ]; then
      channel=${INSTALL_LIMPET_CHANNEL:-stable}
      download "$base/$channel/latest" "$WORK/latest"
      read -r wanted <"$WORK/latest" || [ -n "$wanted" ] || die "$base/$channel/latest is empty"
    fi
    case $wanted in
      v[0-9]*.[0-9]*.[0-9]*) ;;
      *) die "'$wanted' is no version: one looks like v1.2.3" ;;
    esac
    case $wanted in *[!A-Za-z0-9.+-]*) die "'$wanted' is no version: one looks like v1.2.3" ;; esac
    FROM=$base/$wanted
    step "getting limpet $wanted for $ARCH from $base"
    for name in sha256sums sha256sums.minisig version; do download "$FROM/$name" "$WORK/$name"; done
  fi
  verify "$WORK/sha256sums"
  check "$WORK/version" version
  read -r VERSION <"$WORK/version"
  [ "${wanted:-$VERSION}" = "$VERSION" ] || die "the release there is $VERSION, signed, but not the $wanted that was asked for"
  [ -n "$(listed "limpet-$ARCH")" ] || die "limpet $VERSION has no binary for $ARCH"
}

# no_step_back: a channel is not signed; whoever changes it must not bring an old version.
no_step_back() {
  [ -n "$FROM" ] && [ -z "${INSTALL_LIMPET_VERSION-}" ] && [ -x "$BIN_DIR/limpet" ] || return 0
  installed=$("$BIN_DIR/limpet" --version 2>/dev/null | sed -n '1s/^limpet \([^ ]*\).*/\1/p') || return 0
  [ -n "$installed" ] && newer "$installed" "$VERSION" || return 0
  die "$installed is installed, which is newer than $VERSION; set INSTALL_LIMPET_VERSION=$VERSION if you want to go back"
}

# leftovers: removes what a run left that the power ended, wherever it writes.
leftovers() {
  for file in "$BIN_DIR/limpet" "$(unit_file)" "$(env_file)" "$(log_rotation)" "$RECORD" "$DATA_DIR/agent/images/x" "$DATA_DIR/upgrade/release/x"; do
    case $file in /*) rm -rf "$(dirname "$file")"/.limpet-install.* ;; esac
  done
}

# stage_binary: leaves the verified new binary in STAGED/limpet, unless it is installed.
stage_binary() {
  make_dir "$BIN_DIR"
  leftovers
  STAGED=$BIN_DIR/.limpet-install.$$
  mkdir "$STAGED" || die "cannot create $STAGED"
  BINARY=$BIN_DIR/limpet
  [ -n "$FROM" ] || return 0
  if [ -f "$BINARY" ] && [ ! -L "$BINARY" ] && [ "$(sum_of "$BINARY")" = "$(listed "limpet-$ARCH")" ]; then
    say "limpet $VERSION is installed already"
    return
  fi
  BINARY=$STAGED/limpet
  case $FROM in
    /*)
      room "$BIN_DIR" $(($(wc -c <"$FROM/limpet-$ARCH") / 1024 + 1024)) "limpet-$ARCH"
      cp "$FROM/limpet-$ARCH" "$BINARY" || { full "$BINARY" && die "cannot copy limpet-$ARCH to $BIN_DIR"; }
      ;;
    *)
      room "$BIN_DIR" "$BINARY_KIB" "limpet-$ARCH"
      download "$FROM/limpet-$ARCH" "$BINARY" big
      ;;
  esac
  check "$BINARY" "limpet-$ARCH"
  chmod 0755 "$BINARY"
  "$BINARY" --version >/dev/null 2>&1 || die "the binary for $ARCH does not run on this machine ($(uname -m)); is $BIN_DIR mounted noexec?"
}

# --- the service -------------------------------------------------------------------

# choose_service ARGS…: sets ROLE, SERVICE, and KEEP when an installed one stays as it is.
# The arguments are left in WORK/args, one file each, so that any text survives.
choose_service() {
  [ $# -gt 0 ] || {
    # As the shell would split it, quotes included: INSTALL_LIMPET_EXEC='server --tls-san "a b"'
    eval "set -- ${INSTALL_LIMPET_EXEC-}" || die "INSTALL_LIMPET_EXEC is not well quoted"
  }
  KEEP='' ROLE=''
  case ${1-} in
    server | agent) ROLE=$1 && shift ;;
    '' | -*) ;;
    *) die "the service runs 'limpet server' or 'limpet agent', not 'limpet $1'" ;;
  esac
  if [ -z "$ROLE" ] && [ $# -eq 0 ] && [ -z "$(variables LIMPET_)" ]; then
    for SERVICE in limpet limpet-agent; do
      [ -z "${INSTALL_LIMPET_NAME-}" ] || SERVICE=limpet-$INSTALL_LIMPET_NAME
      if [ -f "$(unit_file)" ] && [ -f "$(env_file)" ]; then KEEP=1 && break; fi
    done
  fi
  if [ -n "$KEEP" ]; then
    ROLE=$(sed -n 's/^# role: //p' "$(unit_file)")
    [ -n "$ROLE" ] || die "$(unit_file) was not written by this script; give the arguments of the service"
    say "the service $SERVICE keeps its arguments and environment"
  else
    if [ -z "$ROLE" ]; then
      ROLE=server
      [ -z "${LIMPET_URL-}" ] || ROLE=agent
    fi
    SERVICE=limpet
    [ "$ROLE" = server ] || SERVICE=limpet-agent
    if [ -n "${INSTALL_LIMPET_NAME-}" ]; then
      case $INSTALL_LIMPET_NAME in *[!A-Za-z0-9_.-]*) die "INSTALL_LIMPET_NAME has characters other than letters, digits and _ . -" ;; esac
      SERVICE=limpet-$INSTALL_LIMPET_NAME
    fi
  fi
  mkdir "$WORK/args"
  n=100
  for arg; do
    printf '%s' "$arg" >"$WORK/args/$n"
    n=$((n + 1))
  done
}

# check_arguments: would limpet take them? Asked before anything is changed.
check_arguments() {
  [ -z "$KEEP" ] || return 0
  eval "\"\$BINARY\" config check --for $ROLE$(each_arg quote_shell)" >"$WORK/check" 2>&1 ||
    die "limpet $ROLE would refuse its configuration:
$(sed 's/^/  /' "$WORK/check")"
  dir=$(eval "\"\$BINARY\" config print --for $ROLE$(each_arg quote_shell)" 2>/dev/null | sed -n 's|^data-dir: \(/[^ "]*\)  #.*|\1|p')
  DATA_DIR=${dir:-$DATA_DIR}
}

# Where limpet has its data. It writes this file when that is not the usual place.
DATA_DIR=/var/lib/limpet
data_dir() {
  if [ -s /etc/limpet/data-dir ]; then read -r DATA_DIR </etc/limpet/data-dir || :; fi
  DATA_DIR=${LIMPET_DATA_DIR:-$DATA_DIR}
}

# variables PREFIX: names of the set environment variables with that prefix. Values may
# have line breaks that look like variables, so a name counts only when it is set.
variables() {
  env | sed -n "s/^\\($1[A-Za-z0-9_]*\\)=.*/\\1/p" | sort -u | while read -r name; do
    eval "[ -z \"\${$name+set}\" ]" || printf '%s\n' "$name"
  done
}

# environment: the variables for the service, quoted as systemd's EnvironmentFile and a
# shell both read it.
environment() {
  printf '%s\n' "# Environment of limpet $ROLE, written by install.sh. Anybody who can read this can join the cluster."
  for name in $(variables LIMPET_) http_proxy https_proxy no_proxy all_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY; do
    eval "[ -n \"\${$name:+set}\" ]" || continue
    eval "value=\$$name"
    # shellcheck disable=SC2016,SC2154 # the dollar sign is a character here; eval sets value
    printf '%s="%s"\n' "$name" "$(printf '%s' "$value" | sed 's/[\\"`$]/\\&/g')"
  done
}

# each_arg QUOTER: the arguments, each with a space before it, quoted.
each_arg() {
  for file in "$WORK"/args/*; do
    [ ! -f "$file" ] || printf ' %s' "$("$1" <"$file")"
  done
}
# systemd takes % and $ for its own; a shell takes nothing in single quotes.
quote_systemd() {
  # shellcheck disable=SC2016 # the dollar signs are characters
  printf '"%s"' "$(sed -e 's/[\\"]/\\&/g' -e 's/%/%%/g' -e 's/\$/$$/g' | awk '{ printf "%s%s", (NR > 1 ? "\\n" : ""), $0 }')"
}
quote_shell() { printf "'" && sed "s/'/'\\\\''/g" && printf "'"; }

unit_file() {
  case $INIT in
    systemd) printf '%s' "$SYSTEMD_DIR/$SERVICE.service" ;;
    openrc) printf '%s' "/etc/init.d/$SERVICE" ;;
  esac
}
env_file() {
  case $INIT in
    systemd) printf '%s' "$SYSTEMD_DIR/$SERVICE.service.env" ;;
    openrc) printf '%s' "/etc/limpet/$SERVICE.env" ;;
  esac
}

# log_rotation: OpenRC's services write files, which somebody has to keep small.
log_rotation() {
  [ "$INIT" != openrc ] || [ ! -d /etc/logrotate.d ] || printf '%s' "/etc/logrotate.d/$SERVICE"
}
log_file() { printf '%s' "/var/log/$SERVICE.log"; }

# unit_systemd: no sandboxing option that makes a mount namespace, a seccomp filter or a
# device policy: containers would inherit it, and mounts of pods would not be seen.
unit_systemd() {
  cat <<END
# Written by install.sh; changes are lost. Use: systemctl edit $SERVICE
# role: $ROLE
[Unit]
Description=Limpet: Kubernetes for the edge ($ROLE)
Documentation=https://github.com/limpetio/limpet
Wants=network-online.target
After=network-online.target
# Whatever made it fail may be over in an hour: it is tried for ever.
StartLimitIntervalSec=0

[Service]
Type=notify
EnvironmentFile=-$(env_file)
ExecStart=$1
# Containers belong to their shims and go on when limpet stops or restarts.
KillMode=process
Delegate=yes
TimeoutStartSec=0
TimeoutStopSec=60
Restart=always
RestartSec=5s
OOMScoreAdjust=-999
# A container that runs out of memory is no reason to end limpet.
OOMPolicy=continue
TasksMax=infinity
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity

[Install]
WantedBy=multi-user.target
END
}

unit_openrc() {
  cat <<END
#!/sbin/openrc-run
# Written by install.sh; changes are lost. Use: $(env_file)
# role: $ROLE
description="Limpet: Kubernetes for the edge ($ROLE)"
supervisor=supervise-daemon
command=$(printf '%s' "$BIN_DIR/limpet" | quote_shell)
command_args=$1
output_log=$(log_file)
error_log=$(log_file)
pidfile=/run/$SERVICE.pid
respawn_delay=5
respawn_max=0
# limpet takes up to 25 s to stop in order.
retry=TERM/60/KILL/5
rc_ulimit="-n 1048576"

depend() {
  want cgroups net
  after firewall dns
}

start_pre() {
  checkpath --file --mode 0600 --owner root:root "\$output_log"
  if [ -r $(env_file) ]; then
    set -a
    . $(env_file)
    set +a
  fi
}
END
}

# stage_service: the unit and its environment into WORK.
stage_service() {
  [ "$INIT" != none ] || return 0
  if [ -n "$KEEP" ]; then
    case $INIT in
      systemd) line=$(sed -n 's/^ExecStart=//p' "$(unit_file)") ;;
      openrc) line=$(sed -n 's/^command_args=//p' "$(unit_file)") ;;
    esac
    cp "$(env_file)" "$WORK/env"
  else
    case $INIT in
      systemd) line="\"$BIN_DIR/limpet\" $ROLE$(each_arg quote_systemd)" ;;
      openrc) line=$(printf '%s' "$ROLE$(each_arg quote_shell)" | quote_shell) ;;
    esac
    environment >"$WORK/env"
  fi
  "unit_$INIT" "$line" >"$WORK/unit"
}

service_reload() { [ "$INIT" != systemd ] || systemctl daemon-reload; }
service_enabled() {
  case $INIT in
    systemd) systemctl is-enabled --quiet "$SERVICE" 2>/dev/null ;;
    openrc) [ -e "/etc/runlevels/default/$SERVICE" ] ;;
  esac
}
service_enable() {
  case $INIT in
    systemd) systemctl enable --quiet "$SERVICE" 2>"$WORK/enable" || { cat "$WORK/enable" >&2 && return 1; } ;;
    openrc) rc-update add "$SERVICE" default >/dev/null ;;
  esac
}
service_disable() {
  case $INIT in
    systemd) systemctl disable --quiet "$SERVICE" 2>/dev/null ;;
    openrc) rc-update del "$SERVICE" default >/dev/null 2>&1 ;;
  esac
}
service_active() {
  case $INIT in
    systemd) case $(systemctl show -p ActiveState --value "$SERVICE") in inactive | failed) return 1 ;; esac ;;
    openrc) rc-service "$SERVICE" status >/dev/null 2>&1 ;;
  esac
}
service_restart() {
  case $INIT in
    systemd) systemctl restart --no-block "$SERVICE" ;;
    openrc) if service_active; then rc-service "$SERVICE" restart; else rc-service "$SERVICE" start; fi >/dev/null ;;
  esac
}
service_stop() {
  case $INIT in
    systemd) systemctl stop "$SERVICE" 2>/dev/null && systemctl reset-failed "$SERVICE" 2>/dev/null ;;
    openrc) rc-service "$SERVICE" stop >/dev/null 2>&1 ;;
  esac
}

# --- putting in place --------------------------------------------------------------

CHANGED=''

# put FILE TARGET MODE: TARGET becomes FILE, in one step, if it differs.
put() {
  if [ -f "$2" ] && [ ! -L "$2" ] && cmp -s "$1" "$2"; then
    chmod "$3" "$2"
    keep_record "$2"
    return
  fi
  make_dir "$(dirname "$2")"
  new=$(dirname "$2")/.limpet-install.$(basename "$2").new
  old=$(dirname "$2")/.limpet-install.$(basename "$2").old
  undo_later remove "$new"
  # The binary is beside its target already.
  case $1 in
    "$STAGED"/*) mv -f "$1" "$new" ;;
    *) (umask 077 && cp "$1" "$new") ;;
  esac || { full "$new" && die "cannot write $new"; }
  chmod "$3" "$new"
  # On the disk before it has its name: a power cut leaves the one or the other, whole.
  sync "$new" 2>/dev/null || sync
  if [ -e "$2" ] || [ -L "$2" ]; then
    rm -f "$old"
    ln "$2" "$old" 2>/dev/null || cp -pP "$2" "$old" || die "cannot keep the old $2"
    undo_later restore "$2" "$old"
    printf '%s\n' "$old" >>"$WORK/old"
  else
    undo_later remove "$2"
  fi
  mv -f "$new" "$2" || die "cannot write $2"
  keep_record "$2"
  CHANGED=1
  say "wrote $2"
}
keep_record() { printf '%s\n' "$1" >>"$WORK/record"; }

# link NAME: BIN_DIR/NAME leads to limpet, unless the command exists.
link() {
  target=$BIN_DIR/$1
  if [ "$(readlink "$target" 2>/dev/null || :)" = limpet ]; then
    keep_record "$target"
    return
  fi
  case ${INSTALL_LIMPET_SYMLINK-} in
    skip) return ;;
    force)
      # A real file is somebody's program: never lost.
      [ -L "$target" ] || [ ! -e "$target" ] || die "$target is a file; move it away, or set INSTALL_LIMPET_SYMLINK=skip"
      ;;
    '')
      if have "$1" || [ -e "$target" ] || [ -L "$target" ]; then
        say "$1 exists, so it is not linked to limpet"
        return
      fi
      ;;
    *) die "INSTALL_LIMPET_SYMLINK is '$INSTALL_LIMPET_SYMLINK', but takes skip or force" ;;
  esac
  if [ -L "$target" ]; then
    old=$BIN_DIR/.limpet-install.$1.old
    mv -f "$target" "$old"
    undo_later restore "$target" "$old"
    printf '%s\n' "$old" >>"$WORK/old"
  else
    undo_later remove "$target"
  fi
  ln -s limpet "$target" || die "cannot create the link $target"
  keep_record "$target"
  say "linked $target to limpet"
}

# script NAME COMMAND: for those who look for the two scripts of k3s.
script() {
  printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$BIN_DIR/limpet" "$2" >"$WORK/$1"
  put "$WORK/$1" "$BIN_DIR/$1" 0755
}

# images: those of the archive, to where limpet imports them from.
images() {
  case $FROM in /*) ;; *) return 0 ;; esac
  images_dir=$DATA_DIR/agent/images
  for image in "$FROM"/images/*.tar*; do
    [ -f "$image" ] || continue
    check "$image" "images/$(basename "$image")"
    room "$images_dir" $(($(wc -c <"$image") / 1024 + 1)) "$(basename "$image")"
    before=$CHANGED
    put "$image" "$images_dir/$(basename "$image")" 0644
    CHANGED=$before # imported while limpet runs
  done
}

# proof: the signed checksums of the binary, with which this machine can hand it on to
# others. An installed binary keeps those that it has.
proof() {
  [ -n "$FROM" ] || return 0
  before=$CHANGED
  for name in version sha256sums sha256sums.minisig; do
    put "$WORK/$name" "$DATA_DIR/upgrade/release/$name" 0644
  done
  CHANGED=$before
}

# record: what `limpet uninstall` removes, one path a line, directories with a slash at
# the end; what an earlier run wrote stays in it.
RECORD=/var/lib/limpet/installed
record() {
  make_dir /var/lib/limpet
  {
    printf '%s\n' "# Written by install.sh: what limpet uninstall removes." "# version: $VERSION"
    {
      [ ! -f "$RECORD" ] || sed -n -e '/^\//p' -e '/^# service: /p' "$RECORD"
      [ "$INIT" = none ] || printf '%s\n' "# service: $INIT $SERVICE"
      cat "$WORK/record"
    } | awk '!seen[$0]++'
  } >"$WORK/installed"
  before=$CHANGED
  put "$WORK/installed" "$RECORD" 0600
  CHANGED=$before
}

selinux() {
  have getenforce && [ "$(getenforce)" != Disabled ] || return 0
  ! have restorecon || restorecon "$BIN_DIR/limpet" "$(unit_file)" "$(env_file)" 2>/dev/null || :
  warn "SELinux is $(getenforce) here. limpet brings no policy of its own and has not been tested with one:
  if pods fail with 'permission denied', look into the audit log (ausearch -m avc)"
}

# log_files: the log goes with limpet, and is kept below 10 MiB where there is logrotate.
log_files() {
  keep_record "$(log_file)"
  [ -e "$(log_file)" ] || undo_later remove "$(log_file)"
  [ -n "$(log_rotation)" ] || return 0
  printf '%s\n' "# Written by install.sh." "$(log_file) {" \
    '  size 10M' '  rotate 2' '  compress' '  copytruncate' '  missingok' '  notifempty' '}' >"$WORK/logrotate"
  before=$CHANGED
  put "$WORK/logrotate" "$(log_rotation)" 0644
  CHANGED=$before
}

install_all() {
  BEFORE=$CHANGED
  script limpet-killall.sh kill
  script limpet-uninstall.sh uninstall
  CHANGED=$BEFORE # these change nothing that runs
  if [ "$BINARY" != "$BIN_DIR/limpet" ]; then put "$BINARY" "$BIN_DIR/limpet" 0755; else keep_record "$BIN_DIR/limpet"; fi
  link kubectl
  link ctr
  images
  proof
  if [ "$INIT" != none ]; then
    mode=0644
    [ "$INIT" = systemd ] || mode=0755
    undo_later reload
    put "$WORK/env" "$(env_file)" 0600
    put "$WORK/unit" "$(unit_file)" $mode
  fi
  [ "$INIT" != openrc ] || log_files
  record
  sync
}

# --- starting ----------------------------------------------------------------------

# start: enables and starts; a start that fails undoes the installation.
start() {
  case $INIT in
    none)
      DONE=1
      step "limpet $VERSION is installed. There is neither systemd nor openrc here: start it as you start services"
      say "$BIN_DIR/limpet $ROLE$(each_arg quote_shell)"
      return
      ;;
    systemd) [ -z "$CHANGED" ] || service_reload || die "systemctl daemon-reload failed" ;;
  esac
  if ! yes "${INSTALL_LIMPET_SKIP_ENABLE-}" INSTALL_LIMPET_SKIP_ENABLE && ! service_enabled; then
    undo_later disable
    service_enable || die "the service cannot be enabled"
    say "$SERVICE starts at boot"
  fi
  if yes "${INSTALL_LIMPET_SKIP_START-}" INSTALL_LIMPET_SKIP_START; then
    step "limpet $VERSION is installed, and not started, as asked for"
    return
  fi
  if service_active; then
    if [ -z "$CHANGED" ] && ! yes "${INSTALL_LIMPET_FORCE_RESTART-}" INSTALL_LIMPET_FORCE_RESTART; then
      step "limpet $VERSION runs already, and nothing has changed: not restarted"
      return
    fi
    step "restarting $SERVICE (pods go on)"
    sed '/^reload/d' "$UNDO" >"$WORK/undo.rest"
    { printf 'restart\t\t\nreload\t\t\n' && cat "$WORK/undo.rest"; } >"$UNDO"
  else
    step "starting $SERVICE"
    undo_later stop
  fi
  [ "$INIT" != systemd ] || before=$(systemctl show -p InvocationID --value "$SERVICE")
  service_restart || die "the service manager refuses to start $SERVICE"
  await
}

# await: until it is up, the start has failed, or the time is over. An agent whose server
# cannot be reached waits for it as long as it takes: that is no failure.
await() {
  limit=${INSTALL_LIMPET_START_TIMEOUT:-300} waited=0 told='' text=''
  "await_$INIT"
}

up() {
  step "limpet $VERSION is up${text:+: $text}"
  [ "$ROLE" = agent ] || say "see: $BIN_DIR/limpet kubectl get nodes"
}

# not_up HINT: the time is over.
not_up() {
  [ "$ROLE" = server ] && start_failed "it was not up after $limit s"
  step "limpet $VERSION is installed and goes on starting${text:+: $text}"
  say "see: $1"
}

# await_openrc: OpenRC does not know when limpet is up, but limpet does.
await_openrc() {
  first=''
  until "$BIN_DIR/limpet" status 2>/dev/null | grep -q '^limpet  *ready '; do
    # supervise-daemon starts whatever has ended again, as another process.
    child=$(cat "/run/openrc/options/$SERVICE/child_pid" 2>/dev/null || :)
    first=${first:-$child}
    if [ "$child" != "$first" ] || { [ -n "$child" ] && [ ! -d "/proc/$child" ]; }; then start_failed "it ended"; fi
    [ "$waited" -lt "$limit" ] || { not_up "$BIN_DIR/limpet status, $(log_file)" && return; }
    sleep 1
    waited=$((waited + 1))
  done
  up
}

await_systemd() {
  while :; do
    state=$(systemctl show -p ActiveState --value "$SERVICE") text=''
    if [ "$(systemctl show -p InvocationID --value "$SERVICE")" = "$before" ]; then
      state='the run before' # the new one has not begun
    else
      text=$(systemctl show -p StatusText --value "$SERVICE")
      [ "$(systemctl show -p SubState --value "$SERVICE")" != auto-restart ] || state=failed
    fi
    case $state in
      active) up && return ;;
      failed) start_failed "it ended" ;;
    esac
    [ "$state" = 'the run before' ] || [ "$(systemctl show -p NRestarts --value "$SERVICE")" = 0 ] || start_failed "it ended"
    if [ -n "$text" ] && [ "$text" != "$told" ]; then
      say "$text"
      told=$text
    fi
    [ "$waited" -lt "$limit" ] || break
    sleep 1
    waited=$((waited + 1))
  done
  not_up "journalctl -u $SERVICE -f"
}

start_failed() {
  warn "$SERVICE did not start: $1. The end of its log:"
  case $INIT in
    systemd) journalctl -u "$SERVICE" -n 20 --no-pager -o cat 2>/dev/null ;;
    openrc) tail -n 20 "$(log_file)" ;;
  esac | sed 's/^/    /' >&2 || :
  die "$SERVICE did not start, so the installation is taken back; what limpet wrote itself (in $DATA_DIR) stays"
}

main() {
  case ${1-} in
    -h | --help | help)
      help
      return
      ;;
  esac
  TAB=$(printf '\t')
  [ "$(id -u)" -eq 0 ] || die "this needs root: run it by 'sudo sh -', or as root"
  SYSTEMD_DIR=${INSTALL_LIMPET_SYSTEMD_DIR:-/etc/systemd/system}
  detect_arch
  detect_init
  trap cleanup EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  lock
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/limpet-install.XXXXXX") || die "cannot create a directory for temporary files"
  UNDO=$WORK/undo
  : >"$UNDO"
  : >"$WORK/record"
  choose_bin_dir
  choose_service "$@"
  data_dir
  get_release
  no_step_back
  stage_binary
  check_arguments
  stage_service
  install_all
  selinux
  start
  DONE=1
  if [ -f "$WORK/old" ]; then
    while read -r old; do rm -f "$old"; done <"$WORK/old"
  fi
}

main "$@"
