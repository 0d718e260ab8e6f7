#!/usr/bin/env bash
# build.sh [PROGRAM...]: the cluster's programs, and its images, into .cache/cluster. Without a name: all.
# What the module files, the flags and the version of Go did not change for is left alone.
source "$(dirname "$0")/../lib.sh"
source hack/kube/lib.sh
source hack/go.sh

GO_FLOOR=1.26 # the go directive of Kubernetes 1.36
HELM=v3.21.4
FREE_GIB=8 # caches and results of a build from nothing
MODULES=hack/kube/modules
declare -A PACKAGES=(
  [kubectl]=k8s.io/kubernetes/cmd/kubectl
  [kubelet]=k8s.io/kubernetes/cmd/kubelet
  [kube-apiserver]=k8s.io/kubernetes/cmd/kube-apiserver
  [kube-controller-manager]=k8s.io/kubernetes/cmd/kube-controller-manager
  [kube-scheduler]=k8s.io/kubernetes/cmd/kube-scheduler
  [pause]=./pause
  [etcd]=go.etcd.io/etcd/server/v3
  [csi-provisioner]=github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner
  [helm]=helm.sh/helm/v3/cmd/helm
)
ORDER=(kubectl kubelet kube-apiserver kube-controller-manager kube-scheduler pause etcd helm csi-provisioner)

# module NAME: the directory with the go.mod that locks it; none for helm, whose own module can be installed.
module() {
  case $1 in
    helm) ;;
    csi-provisioner) echo "$MODULES/provisioner" ;;
    etcd) echo "$MODULES/etcd" ;;
    *) echo "$MODULES/kubernetes" ;;
  esac
}

# The Go proxy has no release of Kubernetes that stamps itself: without -X every program says v0.0.0-master, and so does the node.
link_flags() {
  local version name=k8s.io/component-base/version flags="-s -w"
  case $1 in
    csi-provisioner)
      version=$(required "$1" github.com/kubernetes-csi/external-provisioner/v6)
      echo "-s -w -X main.version=$version"
      ;;
    kube*)
      version=$(required "$1" k8s.io/kubernetes)
      echo "-s -w -X $name.gitVersion=$version -X $name.gitMajor=1 -X $name.gitMinor=$(cut -d. -f2 <<<"$version")"
      ;;
    helm) # else it renders for Kubernetes 1.20, and refuses charts for later ones
      version=$(required kubectl k8s.io/kubernetes | cut -d. -f2)
      for name in chartutil lint/rules; do
        flags+=" -X helm.sh/helm/v3/pkg/$name.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$name.k8sVersionMinor=$version"
      done
      echo "$flags"
      ;;
    *) echo "-s -w " ;;
  esac
}

# required PROGRAM MODULE: the version that its go.mod names.
required() { awk -v module="$2" '$1 == "require" && $2 == module { print $3; exit } $1 == module { print $2; exit }' "$(module "$1")/go.mod"; }

# What a program is made of, without asking Go: to find that nothing is to do takes no second.
stamp() {
  local directory
  directory=$(module "$1")
  { link_flags "$1" && if [[ $directory ]]; then cat "$directory"/go.*; else echo "$HELM"; fi; } | sha256sum
}

is_built() { [[ -x $BIN/$1 && $(cat "$BIN/.$1" 2>/dev/null) == "$(stamp "$1")" ]]; }

build() {
  local begin=$SECONDS flags
  flags=$(link_flags "$1")
  if [[ $1 == helm ]]; then
    GOBIN=$work/bin "$GO" install -ldflags "$flags" "${PACKAGES[$1]}@$HELM"
  else
    (cd "$(module "$1")" && "$GO" build -mod=readonly -ldflags "$flags" -o "$work/bin/$1" "${PACKAGES[$1]}")
  fi || die "$1 did not build"
  mv "$work/bin/$1" "$BIN/$1"
  stamp "$1" >"$BIN/.$1"
  say "$(printf '%-24s %4d s' "$1" $((SECONDS - begin)))"
}

programs() {
  local name todo=()
  for name; do
    [[ -n ${PACKAGES[$name]-} ]] || die "no program $name; there are ${ORDER[*]}"
    is_built "$name" || todo+=("$name")
  done
  ((${#todo[@]})) || return 0
  (($(df --output=avail -BG "$CLUSTER" | tail -1 | tr -dc 0-9) >= FREE_GIB)) || die "less than $FREE_GIB GiB free in $CLUSTER"
  work=$(mktemp -d "$CACHE/go.XXXXXX") # not local: the trap runs after this function
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/bin"
  # Static programs, that run on the node and in any image; the same on every machine.
  export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
  use_go "$GO_FLOOR" "$work"
  say "building ${todo[*]} (all of them: about 8 minutes, once)"
  for name in "${todo[@]}"; do build "$name"; done
}

# image NAME ARGUMENT...: a base image; packing takes a second, so it is done again when its program changed.
image() {
  local name=$1
  shift
  [[ $IMAGES/$name.tar -nt $1 && $IMAGES/$name.tar -nt hack/kube/mkimage.py ]] ||
    python3 hack/kube/mkimage.py "$IMAGES/$name.tar" "${@:2}"
}

mkdir -p "$BIN" "$IMAGES"
exec 8>"$CLUSTER/build.lock"
flock 8 # two terminals, one build
programs "${@:-${ORDER[@]}}"
(($# == 0)) || exit 0
image pause "$BIN/pause" localhost/pause:1 --file "$BIN/pause:/pause" -- /pause
image busybox /bin/busybox localhost/busybox:1 --busybox /bin/busybox -- /bin/sh
image csi-provisioner "$BIN/csi-provisioner" localhost/csi-provisioner:dev \
  --file "$BIN/csi-provisioner:/csi-provisioner" -- /csi-provisioner
