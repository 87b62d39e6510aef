#!/bin/sh
# Holds the crates that Shipbell is made of against deny.toml: licences, bans, sources, and advisories where their database
# can be had. Takes the cargo-deny on PATH if it is the right release, or else installs that, once, outside the clone.
#
#   ADVISORIES=required   fail where the database of advisories can't be had, instead of saying so
set -eu
cd "$(dirname "$0")/.."
release=0.20.2

root=${XDG_CACHE_HOME:-$HOME/.cache}/shipbell/cargo-deny-$release
if [ "$(cargo-deny --version 2>/dev/null || true)" = "cargo-deny $release" ]; then
  deny=cargo-deny
else
  deny=$root/bin/cargo-deny
  if [ ! -x "$deny" ]; then
    echo "Installing cargo-deny $release into the cache; 2 minutes on two cores" >&2
    # It reads a lock file: to build it faster is worth more than that it runs faster.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
      CARGO_PROFILE_RELEASE_DEBUG=false CARGO_TARGET_DIR="$root/target" \
      cargo install --locked --quiet --root "$root" "cargo-deny@$release"
    rm -rf "$root/target"
  fi
fi

"$deny" --workspace --locked check licenses bans sources

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$deny" --locked fetch db >"$log" 2>&1; then
  "$deny" --workspace --locked check --disable-fetch advisories
elif [ "${ADVISORIES:-}" = required ]; then
  cat "$log" >&2
  echo "The database of advisories can't be had" >&2
  exit 1
else
  echo "SKIPPED: advisories, as their database (github.com/rustsec/advisory-db) can't be had from here" >&2
fi
