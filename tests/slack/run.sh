#!/usr/bin/env bash
# Lets Slack's own libraries judge the messages in tests/slack/golden. Needs python3 (with venv), node and npm, and
# the network the first time; what it installs is kept outside the clone.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shipbell/slack
golden=${1:-$here/golden}
mkdir -p "$cache"

# Runs a step in silence; what it said is shown if it fails.
quietly() {
  local log=$cache/install.log
  "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    echo "FAILED: $*" >&2
    exit 1
  }
}

# Installs when what is asked for differs from what was installed last.
if ! cmp -s "$here/requirements.txt" "$cache/venv/requirements.txt"; then
  rm -rf "$cache/venv"
  quietly python3 -m venv "$cache/venv"
  quietly "$cache/venv/bin/pip" install --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$cache/venv/requirements.txt"
fi
if ! cmp -s "$here/package.json" "$cache/npm/installed.json"; then
  rm -rf "$cache/npm"
  mkdir -p "$cache/npm"
  cp "$here/package.json" "$cache/npm/package.json"
  quietly npm install --prefix "$cache/npm" --ignore-scripts --no-audit --no-fund
  cp "$here/package.json" "$cache/npm/installed.json"
fi

failed=0
"$cache/venv/bin/python" "$here/check.py" "$golden" || failed=1
node "$here/check.mjs" "$golden" "$cache/npm" || failed=1
[ "$failed" = 0 ] || {
  echo "FAILED: Slack's libraries refuse a message, or did not judge" >&2
  exit 1
}
