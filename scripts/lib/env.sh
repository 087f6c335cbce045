# shellcheck shell=bash
# Shared by the scripts: find Python, keep the environment in .venv up to date. Source it; it changes to the project.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
VENV=.venv
PYTHON=$VENV/bin/python
NEEDED_KIB=$((2560 * 1024))

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# Print the first Python that is new enough and can make environments.
find_python() {
  local candidate
  for candidate in python3.12 python3.11 python3.13 python3.14 python3 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  die "Python 3.11 or newer with its venv module is needed and was not found. On Debian and Ubuntu: apt install python3 python3-venv"
}

# The environment is made anew only when what it is made of changes.
stamp_of() {
  { cat pyproject.toml constraints.txt && "$1" -V && pwd; } | sha256sum | cut -d' ' -f1
}

# ensure_env EXTRAS: make or update .venv with these extras (for example train,dev).
ensure_env() {
  local extras=$1 base stamp mark
  mkdir -p "$VENV"
  if command -v flock >/dev/null 2>&1; then
    exec 9>"$VENV/.lock"
    flock 9 # a second script waits here until the first has finished installing
  fi
  mark="$VENV/.made-for-${extras//,/-}"
  if [ -x "$PYTHON" ] && "$PYTHON" -c '' 2>/dev/null; then
    stamp=$(stamp_of "$PYTHON")
    if [ "$(cat "$mark" 2>/dev/null)" = "$stamp" ]; then
      exec 9>&- # children must not hold the lock
      return
    fi
  else
    base=$(find_python)
    check_room
    say "Making an environment in $VENV with $("$base" -V)."
    "$base" -m venv --clear "$VENV" || die "The environment could not be made in $(pwd)/$VENV."
  fi
  install_packages "$extras"
  stamp_of "$PYTHON" >"$mark"
  exec 9>&-
}

check_room() {
  local free
  free=$(df -Pk . | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$NEEDED_KIB" ] ||
    die "About 2.5 GB are needed here and only $((free / 1024)) MiB are free: free some space, or move the project to another disk."
}

install_packages() {
  local extras=$1 pin
  say "Installing packages (a few minutes the first time)."
  if [[ ",$extras," == *,train,* ]] && [ -n "${TORCH_INDEX_URL:-}" ]; then
    # A package index that holds the build of torch that suits this machine, for example the one without CUDA.
    pin=$(grep '^torch==' constraints.txt)
    "$PYTHON" -m pip install --quiet --no-deps --index-url "$TORCH_INDEX_URL" "$pin" ||
      die "torch could not be installed from TORCH_INDEX_URL."
  fi
  # A plain path entry in place of an import hook: every process of ours starts some 20 ms sooner.
  "$PYTHON" -m pip install -c constraints.txt --config-settings editable_mode=compat -e ".[$extras]" | grep -v '^Requirement already satisfied' >&2 ||
    [ "${PIPESTATUS[0]}" -eq 0 ] ||
    die "The packages could not be installed: the lines above say why. It is safe to run this again."
}

find_chromium() { [ -x /usr/bin/chromium ]; }
