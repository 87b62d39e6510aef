#!/bin/sh
# Runs the tiers of tests named in TIERS, and says which ran. `scripts/test.sh lint` only checks format and lints.
set -eu
cd "$(dirname "$0")/.."
: "${TIERS:=T0 T1 T2}"

say() { printf '\n== %s\n' "$*"; }

# shellcheck disable=SC2086 # a word is a tier
[ "${1:-}" = lint ] || scripts/needs.sh $TIERS

say "format and lints"
cargo fmt --all --check
# A path in clippy.toml that no longer resolves only warns, whatever the level: the fence would be open.
lints=$(mktemp)
trap 'rm -f "$lints"' EXIT
cargo clippy --locked --workspace --all-targets -- -D warnings 2>"$lints" || { cat "$lints" >&2; exit 1; }
if grep -q 'does not refer to' "$lints"; then
  cat "$lints" >&2
  echo "clippy.toml names something that is not there" >&2
  exit 1
fi
[ "${1:-}" = lint ] && exit 0

say "licences, sources and advisories of crates"
scripts/deny.sh

ran=""
for tier in $TIERS; do
  case "$tier" in
    T0)
      say "T0: pure and in-memory"
      ALL_TRIES=1 cargo test --locked --workspace --lib
      ;;
    T1)
      say "T1: a real control plane with a fake node"
      cargo build --locked --workspace
      "${CARGO_TARGET_DIR:-target}/debug/kube-assets"
      cargo test --locked --workspace --test kit
      # Stories wait more than they work, so many run side by side whatever the number of cores.
      cargo test --locked --workspace --test stories -- --test-threads=16
      ;;
    T2)
      say "T2: the chart with only its rights, packaging, outages"
      cargo build --locked --workspace
      "${CARGO_TARGET_DIR:-target}/debug/kube-assets" --helm
      cargo test --locked --workspace --test archive --test package
      cargo test --locked --workspace --test outages -- --test-threads=2
      say "T2: Slack's own libraries judge our messages"
      tests/slack/run.sh
      ;;
    *)
      echo "TIERS: there is no tier $tier; T0, T1 and T2 are" >&2
      exit 2
      ;;
  esac
  ran="$ran $tier"
done
say "tiers that ran:$ran"
