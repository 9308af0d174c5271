#!/usr/bin/env bash
# Sets up what the tests need, then runs all of them. On a fresh Debian or Ubuntu machine with Rust nothing else is needed.
#   ./tests/run.sh              everything
#   ./tests/run.sh NAME         the tests whose name contains NAME
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup.sh
need_rust
need_redis
want_faketime
# The tests run the real binary; cargo builds it for them.
cargo build --locked --workspace --bins --examples
cargo test --locked --workspace --no-fail-fast -- ${1:+"$1"}
