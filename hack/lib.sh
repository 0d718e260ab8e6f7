# Sourced by the scripts here: strict mode, the repository's root as working directory, one cache directory.
# shellcheck shell=bash
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
VENV=$ROOT/.venv
CACHE=$ROOT/.cache
export ROOT VENV CACHE

say() { printf '%s\n' "$*" >&2; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# step NAME COMMAND...: quiet when it goes well; its whole output when it does not.
step() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    printf '%-44s ok\n' "$name"
  else
    printf '%-44s FAILED\n%s\n' "$name" "$output"
    return 1
  fi
}
