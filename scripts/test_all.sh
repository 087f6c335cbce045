#!/usr/bin/env bash
# Set up the environment for development and run the tests; arguments go to pytest.
#   scripts/test_all.sh [-k NAME] [tests/realm]
# Tests in a browser run too when a Chromium is found.
set -euo pipefail
# shellcheck source=scripts/lib/env.sh
. "$(dirname "$0")/lib/env.sh"

ensure_env train,dev
markers="not slow and not gpu and not modal and not needs_root and not postgres"
if ! find_chromium; then
  say "No Chromium was found: the tests in a browser are left out."
  markers="$markers and not browser"
fi
exec "$PYTHON" -m pytest -m "$markers" "$@"
