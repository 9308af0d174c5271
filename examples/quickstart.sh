#!/usr/bin/env bash
# Boots a whole Horus on this machine, runs the data pipeline on it, prints what was stored, and stops.
#   ./examples/quickstart.sh             everything in a temporary directory, removed at the end
#   ./examples/quickstart.sh --keep DIR  keep keys, queue and records in DIR
#   HORUS_BIN=/path/to/horus             use this binary instead of building one
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s\n' "$*" >&2; exit 1; }

keep=""
case ${1:-} in
    "") ;;
    --keep) [ -n "${2:-}" ] || die "usage: $0 [--keep DIR]"; mkdir -p "$2"; keep=$(cd "$2" && pwd) ;;
    *) die "usage: $0 [--keep DIR]" ;;
esac

. "$root/tests/setup.sh"
need_rust
need_redis

if [ -n "${HORUS_BIN:-}" ]; then
    horus=$HORUS_BIN
else
    say "Building horus (the first time takes some minutes)"
    cargo build --release --locked -p horus-node
    horus="${CARGO_TARGET_DIR:-$root/target}/release/horus"
fi

state=${keep:-$(mktemp -d "${TMPDIR:-/tmp}/horus-quickstart.XXXXXX")}
up=""
finish() {
    status=$?
    trap - EXIT INT TERM
    if [ -n "$up" ] && kill -0 "$up" 2>/dev/null; then
        kill -TERM "$up" 2>/dev/null || true
        wait "$up" 2>/dev/null || true
    fi
    if [ $status -ne 0 ] && [ -f "$state/up.log" ]; then
        printf '\nThe last words of horus up (%s):\n' "$state/up.log" >&2
        tail -n 20 "$state/up.log" >&2
    elif [ -z "$keep" ]; then
        rm -rf "$state"
    fi
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "Booting Redis, supervisor, four runners and coordinator, each a process with a key of its own"
export HORUS_IDENTITY="$state/me"
"$horus" up --data-dir "$state/data" --supervisor-port 0 --coordinator-port 0 --mesh off \
    --script-lib "$root/examples/script-lib" --json >"$state/ready.json" 2>"$state/up.log" &
up=$!
for _ in $(seq 1 1200); do
    grep -q ready "$state/ready.json" 2>/dev/null && break
    kill -0 "$up" 2>/dev/null || die "horus up has stopped before it was ready"
    sleep 0.1
done
grep -q ready "$state/ready.json" || die "horus up was not ready within two minutes"
field() { grep -o "\"$1\":\"http[^\"]*" "$state/ready.json" | head -n 1 | cut -d '"' -f 4; }
HORUS_SUPERVISOR=$(field supervisor)
HORUS_COORDINATOR=$(field coordinator)
export HORUS_SUPERVISOR HORUS_COORDINATOR
echo "supervisor  $HORUS_SUPERVISOR"
echo "coordinator $HORUS_COORDINATOR"
"$horus" runners list

say "The workflow: fetch the supervisor's OpenRPC document, count and group its methods, store the result"
sed "s|http://127.0.0.1:8080|${HORUS_SUPERVISOR%%#*}|" "$root/examples/workflows/data-pipeline.yaml" >"$state/data-pipeline.yaml"
"$horus" workflow graph "$state/data-pipeline.yaml"

say "Signing it with your key, submitting it, following it"
"$horus" workflow run "$state/data-pipeline.yaml"

say "What was stored, read back from Osiris"
"$horus" job run --runner osiris --payload 'osiris.model("results").list()'

[ -z "$keep" ] || say "Kept in $keep; start it again with: HORUS_IDENTITY=$keep/me $horus up --data-dir $keep/data"
say "Done"
