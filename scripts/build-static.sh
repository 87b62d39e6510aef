#!/bin/sh
# Builds the operator as one static file and prints its path, and nothing else, on stdout.
#
#   SHIPBELL_PROFILE   cargo's profile, `release` unless set; `static-test` is cheaper
#
# The target is the machine's own, whatever it is. It has to be named: otherwise the flag would also hit procedural
# macros, which can't be static.
set -eu

cd "$(dirname "$0")/.."
profile=${SHIPBELL_PROFILE:-release}
target=$(rustc -vV | sed -n 's/^host: //p')

unset CARGO_ENCODED_RUSTFLAGS
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --locked --profile "$profile" --target "$target" --package shipbell --bin shipbell >&2

directory=$(cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
echo "$directory/$target/$profile/shipbell"
