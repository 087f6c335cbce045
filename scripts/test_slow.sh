#!/usr/bin/env bash
# Run the slow tests: many kills, power cuts (as root), long training. Arguments go to pytest.
set -euo pipefail
# shellcheck source=scripts/lib/env.sh
. "$(dirname "$0")/lib/env.sh"

ensure_env train,dev
markers="slow and not gpu and not modal and not postgres"
if [ "$(id -u)" -eq 0 ]; then
  markers="(slow or needs_root) and not gpu and not modal and not postgres"
else
  markers="$markers and not needs_root"
fi
exec "$PYTHON" -m pytest -m "$markers" --timeout 3600 "$@"
