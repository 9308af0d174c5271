#!/usr/bin/env bash
# Measures a Horus of its own in a temporary directory. docs/PERFORMANCE.md says what the figures mean.
#   tests/bench.sh jobs            jobs end to end and one at a time, sal, osiris, chains and a fan
#   tests/bench.sh rpc             RPC over HTTP against a bare jsonrpsee server with the same answers
#   tests/bench.sh idle [SECONDS]  processor time and memory of an idle `horus up`, Redis not counted
#   tests/bench.sh queued [N]      bytes in Redis for each of N queued jobs, and what the supervisor holds
#   tests/bench.sh growth          cost per job and per step at 1,000, 10,000 and 100,000
#   tests/bench.sh peers DIR       BullMQ, installed in DIR as bullmq.mjs says, and Horus in turns
#   tests/bench.sh compare A B     two binaries in turns; the median of each and their ratio
# ROUNDS says how many rounds peers [3] and compare [5] make. HORUS names the binary [default: target/release/horus], BARE_RPC that of examples/bare_rpc.rs, HORUS_UP_FLAGS further flags of `horus up`.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
HORUS=${HORUS:-$target/release/horus}
BARE_RPC=${BARE_RPC:-$target/release/examples/bare_rpc}

work=$(mktemp -d); up=""; others=()
down() {
    [ -n "$up" ] && kill "$up" 2>/dev/null && wait "$up" 2>/dev/null || true
    up=""
}
trap 'down; for p in "${others[@]}"; do kill "$p" 2>/dev/null || true; done; rm -rf "$work"' EXIT

# The value of a field in a JSON object on standard input.
field() { grep -o "\"$1\":[-0-9.a-z\"]*" | head -1 | cut -d: -f2 | tr -d '"'; }

# Starts a Horus with a fresh directory on free ports, with that binary.
start() {
    [ -x "$1" ] || { echo "$1 is not there: cargo build --release -p horus-node" >&2; exit 2; }
    down; rm -rf "$work/data"
    # shellcheck disable=SC2086
    "$1" up --data-dir "$work/data" --identity "$work/me" --supervisor-port 0 --coordinator-port 0 --mesh off --json ${HORUS_UP_FLAGS:-} \
        >"$work/ready" 2>"$work/log" &
    up=$!
    for _ in $(seq 300); do grep -q 'ready.*}$' "$work/ready" && break; kill -0 "$up" 2>/dev/null || break; sleep 0.1; done
    grep -q 'ready.*}$' "$work/ready" || { cat "$work/log" >&2; exit 1; }
    HORUS_SUPERVISOR=$(grep -o '"supervisor":"http[^"]*' "$work/ready" | cut -d'"' -f4)
    HORUS_COORDINATOR=$(grep -o '"coordinator":"http[^"]*' "$work/ready" | cut -d'"' -f4)
    export HORUS_SUPERVISOR HORUS_COORDINATOR HORUS_IDENTITY="$work/me"
}

# All processes of the Horus that is up, without its Redis.
tree() {
    local child
    case $(cat "/proc/$1/comm" 2>/dev/null) in redis-server | valkey-server) return ;; esac
    echo "$1"
    for child in $(cat "/proc/$1/task/"*/children 2>/dev/null); do tree "$child"; done
}
ticks() { for p in $(tree "$up"); do sed 's/.*) //' "/proc/$p/stat"; done | awk '{ t += $12 + $13 } END { print t }'; }
pss_kib() { for p in $(tree "$up"); do grep '^Pss:' "/proc/$p/smaps_rollup"; done | awk '{ k += $2 } END { print k }'; }
rss_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
supervisor_pid() { for p in $(tree "$up"); do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q ' supervisor ' && echo "$p"; done | head -1; }
redis() { redis-cli -s "$(grep -o '"redis_url":"[^"?]*' "$work/ready" | sed 's|.*unix://||')" "$@"; }
memory() { redis info memory | tr -d '\r' | awk -F: '/^used_memory:/ { print $2 }'; }
bench() { "$HORUS" bench "$@" --json; }

case ${1:-} in
jobs)
    start "$HORUS"
    bench jobs --count 20000 --concurrency 32
    bench jobs --sequential --count 300
    bench jobs --runner sal --count 2000
    bench jobs --runner osiris --count 4000
    bench workflow --chain 3 --count 100
    bench workflow --chain 100 --count 20
    bench workflow --fan 1000 --count 10
    ;;
rpc)
    [ -x "$BARE_RPC" ] || { echo "$BARE_RPC is not there: cargo build --release -p horus-examples --example bare_rpc" >&2; exit 2; }
    start "$HORUS"
    for method in get_node_info list_runners; do
        "$HORUS" call "$HORUS_SUPERVISOR" "$method" >"$work/answer"
        "$BARE_RPC" "$method" <"$work/answer" >"$work/bare.$method" &
        others+=($!)
        for _ in $(seq 100); do [ -s "$work/bare.$method" ] && break; sleep 0.05; done
    done
    bench rpc --count 50000 --against "$(cat "$work/bare.get_node_info")"
    bench rpc --count 20000 --signed --against "$(cat "$work/bare.list_runners")"
    ;;
idle)
    seconds=${2:-60}
    start "$HORUS"
    sleep 5 # What starting up leaves behind is not idling.
    before=$(ticks); sleep "$seconds"; after=$(ticks)
    awk -v t=$((after - before)) -v hz="$(getconf CLK_TCK)" -v s="$seconds" -v k="$(pss_kib)" \
        'BEGIN { printf "{\"seconds\":%d,\"cpu_percent_of_a_core\":%.2f,\"pss_mb\":%.1f}\n", s, 100 * t / hz / s, k / 1024 }'
    ;;
queued)
    count=${2:-100000}
    start "$HORUS"
    # Nobody serves this kind, so that its jobs stay in the queue.
    "$HORUS" call "$HORUS_SUPERVISOR" register_runner '{"runner":"parked"}' >/dev/null
    bench jobs --runner parked --submit-only --count 1000 >/dev/null
    before=$(memory)
    report=$(bench jobs --runner parked --submit-only --count "$count")
    after=$(memory)
    envelopes=$(redis --scan --pattern 'horus:{parked}:batch:*' | while read -r key; do echo "MEMORY USAGE $key"; done | redis | awk '{ n += $NF } END { print n }')
    # Of the thousand that came before as well.
    envelopes=$((envelopes * count / (count + 1000)))
    awk -v n="$count" -v all=$((after - before)) -v e="$envelopes" -v rss="$(rss_kib "$(supervisor_pid)")" -v s="$(echo "$report" | field submit_per_s)" \
        'BEGIN { printf "{\"queued\":%d,\"redis_bytes_per_job\":%.0f,\"of_them_envelope\":%.0f,\"over_the_envelope\":%.0f,\"supervisor_rss_mb\":%.1f,\"submit_per_s\":%.0f}\n", n, all / n, e / n, (all - e) / n, rss / 1024, s }'
    ;;
growth)
    for count in 1000 10000 100000; do
        start "$HORUS"
        report=$(bench jobs --count "$count")
        printf '{"jobs":%d,"submit_us_per_job":%s,"process_us_per_job":%s,"end_to_end_us_per_job":%s}\n' "$count" \
            $(for f in submit_per_s process_per_s end_to_end_per_s; do echo "$report" | field $f | awk '{ printf "%.1f ", 1e6 / $1 }'; done)
    done
    for fan in 1000 10000 99900; do
        start "$HORUS"
        report=$(bench workflow --fan $fan --count "$((fan < 50000 ? 3 : 1))")
        printf '{"fan":%d,"us_per_step":%s,"coordinator_rss_mb":%s}\n' "$fan" "$(echo "$report" | field step_ms_p50 | awk '{ printf "%.0f", 1e3 * $1 }')" \
            "$(for p in $(tree "$up"); do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q ' coordinator ' && rss_kib "$p"; done | awk '{ printf "%.0f", $1 / 1024 }')"
    done
    ;;
peers)
    dir=${2:?the directory in which bullmq and ioredis are installed}
    port=$(awk -v s="$$" 'BEGIN { srand(s); print int(20000 + rand() * 10000) }')
    mkdir "$work/peer"
    redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly yes --appendfsync everysec --dir "$work/peer" >/dev/null &
    others+=($!)
    for _ in $(seq 100); do redis-cli -p "$port" ping >/dev/null 2>&1 && break; sleep 0.05; done
    cp "$root/tests/bullmq.mjs" "$dir/bench.mjs"
    start "$HORUS"
    for _ in $(seq "${ROUNDS:-3}"); do
        (cd "$dir" && REDIS_PORT=$port node bench.mjs 20000 32)
        bench jobs --count 20000 --concurrency 32
        bench jobs --sequential --count 300
        bench workflow --chain 3 --count 50
        bench workflow --chain 100 --count 10
        bench workflow --fan 1000 --count 5
    done
    ;;
compare)
    a=${2:?a binary} b=${3:?another binary}
    : >"$work/figures"
    for _ in $(seq "${ROUNDS:-5}"); do
        for which in a b; do
            HORUS=${!which}
            start "$HORUS"
            {
                echo "end_to_end_per_s $which $(bench jobs --count 10000 | field end_to_end_per_s)"
                echo "latency_ms_p50 $which $(bench jobs --sequential --count 200 | field latency_ms_p50)"
                echo "chain_100_step_ms $which $(bench workflow --chain 100 --count 5 | field step_ms_p50)"
                echo "fan_1000_ms $which $(bench workflow --fan 1000 --count 3 | field fan_ms)"
                echo "rpc_calls_per_s $which $(bench rpc --count 20000 | field calls_per_s)"
            } >>"$work/figures"
        done
    done
    median() { awk -v f="$1" -v w="$2" '$1 == f && $2 == w { print $3 }' "$work/figures" | sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
    printf '%-20s %12s %12s %8s\n' figure A B B/A
    for figure in $(awk '!seen[$1]++ { print $1 }' "$work/figures"); do
        awk -v f="$figure" -v a="$(median "$figure" a)" -v b="$(median "$figure" b)" 'BEGIN { printf "%-20s %12.3f %12.3f %8.3f\n", f, a, b, b / a }'
    done
    ;;
*)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
