#!/bin/sh
# Checks that what the tiers of tests (or `demo`) need is there, before anything is built: scripts/needs.sh T0 T1 T2.
# It names everything that is missing at once, how to get it, and who asks for it.
set -u

plane="" slack=""
for who; do
  case "$who" in
    T0) ;;
    T1) plane="T1" ;;
    T2) plane="${plane:+T1 and }T2" slack="T2" ;;
    demo) plane="the demo" ;;
    *)
      echo "TIERS: there is no tier $who; T0, T1 and T2 are" >&2
      exit 2
      ;;
  esac
done

echo "Needed: Rust and a C compiler${plane:+, Go for $plane}${slack:+, Python 3 with venv and Node.js with npm for $slack}."

missing=""
lack() { missing="$missing
  - $1"; }
have() { command -v "$1" >/dev/null 2>&1; }

# Whether version A.B... is at least C.D. What isn't a version passes: the program itself has the last word.
at_least() { # A.B... C.D
  major=${1%%.*} minor=${1#*.}
  minor=${minor%%[!0-9]*}
  case "$major$minor" in "" | *[!0-9]*) return 0 ;; esac
  [ "$major" -gt "${2%.*}" ] || { [ "$major" -eq "${2%.*}" ] && [ "${minor:-0}" -ge "${2#*.}" ]; }
}

have cargo || lack "Rust: https://rustup.rs (rustup then takes the release that rust-toolchain.toml names)"
have cc || lack "a C compiler called cc: apt-get install gcc libc6-dev"

# Programs from elsewhere, or built before, will do as well: kube-assets judges those.
cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/shipbell
go_for() { # WHAT WHO VARIABLE
  if have go; then
    version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null)
    at_least "${version#go}" 1.26 || lack "Go 1.26 instead of ${version#go}, to build $1 for $2: https://go.dev/dl"
  else
    lack "Go 1.26, to build $1 for $2: https://go.dev/dl, or set $3"
  fi
}
if [ -n "$plane" ] && [ -z "${KUBEBUILDER_ASSETS:-}${TEST_ASSET_ETCD:-}" ] && [ ! -d "$cache/kube" ]; then
  go_for "a control plane" "$plane" KUBEBUILDER_ASSETS
fi
tool_for_chart() { # WHAT VARIABLE VALUE
  [ -z "$slack" ] || [ -n "$3" ] || [ -d "$cache/$1" ] || go_for "$1" "$slack" "$2"
}
tool_for_chart helm TEST_ASSET_HELM "${TEST_ASSET_HELM:-}"
tool_for_chart helm-unittest TEST_ASSET_HELM_UNITTEST "${TEST_ASSET_HELM_UNITTEST:-}"
tool_for_chart kubeconform TEST_ASSET_KUBECONFORM "${TEST_ASSET_KUBECONFORM:-}"
tool_for_chart promql TEST_ASSET_PROMQL "${TEST_ASSET_PROMQL:-}"
tool_for_chart oldest-openapi.json TEST_ASSET_OPENAPI "${TEST_ASSET_OPENAPI:-}"

if [ -n "$slack" ]; then
  why="for Slack's own libraries, which judge our messages in $slack"
  python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    lack "Python 3 with venv, $why: apt-get install python3-venv"
  if have node; then
    version=$(node --version)
    at_least "${version#v}" 20.0 || lack "Node.js 20 instead of ${version#v}, $why: https://nodejs.org"
  else
    lack "Node.js 20, $why: https://nodejs.org"
  fi
  have npm || lack "npm, which comes with Node.js, $why: https://nodejs.org"
fi

[ -z "$missing" ] && exit 0
echo "What is missing:$missing" >&2
case "$*" in demo | T0) ;; *) echo "To leave tiers of tests out, name the others: make test TIERS=T0" >&2 ;; esac
exit 1
