#!/usr/bin/env bash
# Set up and start the realm: environment in .venv, home in realm-home, web page on port 8888.
#   scripts/start_all.sh [--port N] [--home DIR]
# Safe to repeat: it installs only what changed and leaves a running realm alone.
set -euo pipefail
where=$PWD
# shellcheck source=scripts/lib/env.sh
. "$(dirname "$0")/lib/env.sh"

home=
port=()
while [ $# -gt 0 ]; do
  case $1 in
    --port) [ $# -ge 2 ] || die "--port needs a number." && port=(--port "$2") && shift 2 ;;
    --home) [ $# -ge 2 ] || die "--home needs a folder." && home=$2 && shift 2 ;;
    -h | --help) sed -n '2,4s/^# \{0,1\}//p' scripts/start_all.sh && exit 0 ;;
    *) die "Unknown option $1. Known: --port N, --home DIR." ;;
  esac
done
case $home in
  "") home_option=() ;;
  /*) home_option=(--home "$home") ;;
  *) home_option=(--home "$where/$home") ;;
esac

ensure_env train
"$PYTHON" -m realm ${home_option[@]+"${home_option[@]}"} up ${port[@]+"${port[@]}"}

home=$("$PYTHON" -m realm ${home_option[@]+"${home_option[@]}"} --json config show |
  "$PYTHON" -c 'import json, sys; print(next(e["value"] for e in json.load(sys.stdin) if e["key"] == "home"))')
quest=$home/first-quest.jsonl
if [ ! -e "$quest" ]; then
  "$PYTHON" -m realm --home "$home" quest make bin --level 1 --count 8400 --seed 1 --out "$quest" >/dev/null
fi
cat <<EOF

A first quest lies ready. Drag it onto that page, or hand it in and watch DIO learn:
  $(pwd)/.venv/bin/realm --home $home quest add $quest --follow
EOF
