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

missing_packages() {
  local package
  for package; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

# install_packages NAME...: packages bring services (docker-registry on port 5000); ours start their own, so none may start here or at boot.
install_packages() {
  local policy=/usr/sbin/policy-rc.d service
  export DEBIAN_FRONTEND=noninteractive
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get -qq update
  apt-get -qq -y -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" >/dev/null
  command -v systemctl >/dev/null || return 0
  for service in docker-registry containerd prometheus; do
    [[ " $* " != *" $service "* ]] || systemctl -q disable "$service"
  done
}

# need_packages WHAT-FOR NAME...: install those that are missing; who is not root, or not on Debian, is told.
need_packages() {
  local purpose=$1 missing
  shift
  command -v dpkg-query >/dev/null || { say "not a Debian system: please provide $*"; return; }
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    say "missing for $purpose (apt-get install, as root): ${missing[*]}"
    return
  fi
  say "installing ${missing[*]}"
  (install_packages "${missing[@]}") # in a shell of its own, for its trap
}
