#!/usr/bin/env bash
# Builds what the demo needs, and runs it. The control plane and the operator are built side by side, so that no core waits.
set -euo pipefail
cd "$(dirname "$0")/.."
built=${CARGO_TARGET_DIR:-target}/debug

scripts/needs.sh demo
cargo build --locked --package kube-assets
# A process group of its own, to be ended whole: whoever interrupts the demo, or can't build the operator, shouldn't wait
# for Go.
set -m
"$built/kube-assets" &
plane=$!
set +m
trap 'kill -- "-$plane" 2>/dev/null || true' EXIT
# Go takes longer, and has stretches that keep only one core busy: cargo takes what Go leaves.
nice cargo build --locked --workspace --bin shipbell --bin demo
wait "$plane"
trap - EXIT

exec "$built/demo"
