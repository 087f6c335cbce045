#!/usr/bin/env bash
# Is everything up and well? Exit code 0 if so.   scripts/check_health.sh [--home DIR]
set -euo pipefail
where=$PWD
# shellcheck source=scripts/lib/env.sh
. "$(dirname "$0")/lib/env.sh"

[ -x "$PYTHON" ] || die "Nothing was ever started here: there is no $VENV."
realm="$PWD/$PYTHON"
[ "${1:-}" != --home ] || cd "$where"
code=0
"$realm" -m realm.weaver "$@" --status || code=1
"$realm" -m realm "$@" doctor || code=1
exit $code
