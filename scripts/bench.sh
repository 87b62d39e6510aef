#!/bin/sh
# Measures the operator as it is shipped beside a stock watcher, in one run, and prints the table for docs/benchmarks.md.
# Further arguments go to the benchmark: scripts/bench.sh --only latency
set -eu
cd "$(dirname "$0")/.."
built=${CARGO_TARGET_DIR:-target}/release
# The operator alone: with the tests' dependencies beside it, it would be built with more features.
cargo build --locked --release --bin shipbell
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
cp "$built/shipbell" "$kept"
export SHIPBELL_BINARY="$kept/shipbell"
# The stock subject is in the benchmark's own program: it gets the same profile.
cargo build --locked --release --package shipbell-tests --bin bench
"$built/bench" "$@"
