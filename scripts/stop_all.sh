#!/usr/bin/env bash
# Stop the realm; a battle saves first.   scripts/stop_all.sh [--home DIR]
set -euo pipefail
where=$PWD
# shellcheck source=scripts/lib/env.sh
. "$(dirname "$0")/lib/env.sh"

[ -x "$PYTHON" ] || die "Nothing was ever started here: there is no $VENV."
realm="$PWD/$PYTHON"
[ "${1:-}" != --home ] || cd "$where" # a relative folder means one below where the caller stands
exec "$realm" -m realm "$@" down
