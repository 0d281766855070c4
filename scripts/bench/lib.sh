# shellcheck shell=bash
# lib.sh: builds the measuring program (./*.go) and runs it. Sourced by start, idle, api and agent.

# bench COMMAND ARGS…: Go's build cache makes the build a matter of a second.
# $BENCH_FLAGS comes first, for `make bench-… BENCH_FLAGS='-n 1'`.
bench() {
  local repo command=$1
  local -a flags=()
  shift
  repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  read -ra flags <<<"${BENCH_FLAGS-}"
  cd "$repo" || return
  mkdir -p .cache/bin
  # With -trimpath the packages that dist/limpet was built from are used again.
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -o .cache/bin/bench ./scripts/bench
  exec .cache/bin/bench "$command" "${flags[@]}" "$@"
}
