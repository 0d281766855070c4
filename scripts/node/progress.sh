# shellcheck shell=bash
# progress.sh: saying what is awaited, for people and for logs.

# progress TEXT SECONDS: on a terminal one line that counts, else one line for
# every new text.
progress() {
  if [[ -t 2 ]]; then
    printf '\r\e[K%s … %d s' "$1" "$2" >&2
  elif [[ ${PROGRESS_SHOWN-} != "$1" ]]; then
    printf '%s\n' "$1" >&2
  fi
  PROGRESS_SHOWN=$1
}

# progress_end TEXT: replaces the counting line by a final one.
progress_end() {
  [[ ! -t 2 ]] || printf '\r\e[K' >&2
  PROGRESS_SHOWN=
  printf '%s\n' "$1" >&2
}

# progress_while TEXT COMMAND…: runs COMMAND, counting; its output is shown only
# when it fails, and its status is returned.
progress_while() {
  local text=$1 start=$SECONDS pid status=0 output
  shift
  output=$(mktemp)
  "$@" >"$output" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    progress "$text" $((SECONDS - start))
    sleep 0.1
  done
  wait "$pid" || status=$?
  if ((status == 0)); then
    progress_end "$text: $((SECONDS - start)) s"
  else
    progress_end "$text: failed"
    cat "$output" >&2
  fi
  rm -f "$output"
  return "$status"
}
