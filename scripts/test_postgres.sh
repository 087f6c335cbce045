#!/usr/bin/env bash
# Run the tests against PostgreSQL: a private server in a temporary folder, on a socket, stopped at the end.
# Needs PostgreSQL's programs (Debian and Ubuntu: apt install postgresql). Arguments go to pytest.
set -euo pipefail
# shellcheck source=scripts/lib/env.sh
. "$(dirname "$0")/lib/env.sh"

bin=
for folder in "$(dirname "$(command -v initdb || true)")" /usr/lib/postgresql/*/bin; do
  if [ -x "$folder/initdb" ]; then bin=$(dirname "$(readlink -f "$folder/initdb")"); fi
done
[ -n "$bin" ] || die "PostgreSQL's programs were not found. On Debian and Ubuntu: apt install postgresql"
ensure_env train,dev

base=$(mktemp -d "${TMPDIR:-/tmp}/realm-pg-XXXXXX")
as=()
if [ "$(id -u)" -eq 0 ]; then # the server refuses to run as root
  user=nobody
  if id postgres >/dev/null 2>&1; then user=postgres; fi
  chown "$user" "$base"
  as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups --)
fi
run() { (cd "$base" && ${as[@]+"${as[@]}"} env -i PATH="$bin:$PATH" LC_ALL=C.UTF-8 "$@"); }
stop() {
  run "$bin/pg_ctl" -D "$base/data" -m immediate -w stop >/dev/null 2>&1 || true
  rm -rf "$base"
}
trap stop EXIT

run "$bin/initdb" -D "$base/data" -U realm --auth trust --encoding UTF8 --locale C.UTF-8 >"$base/initdb.log" 2>&1 ||
  die "initdb failed: $(tail -n 1 "$base/initdb.log")"
run "$bin/pg_ctl" -D "$base/data" -w -l "$base/server.log" -o "-c listen_addresses='' -k '$base'" start >/dev/null ||
  die "The server did not start: $(tail -n 1 "$base/server.log")"
run "$bin/createdb" -h "$base" -U realm realm || die "The database could not be made."
chmod 755 "$base"
export TEST_POSTGRES_URL="postgresql+psycopg://realm@/realm?host=$base"
"$PYTHON" -m pytest -m postgres "$@"
