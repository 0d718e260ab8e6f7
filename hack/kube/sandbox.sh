#!/usr/bin/env bash
# sandbox.sh DIRECTORY [COMMAND...]: the first process of the namespaces, started by `unshare`. It makes them a machine of
# their own, keeping everything in DIRECTORY, and runs COMMAND; without one it waits for the end. With it, all processes end.
source "$(dirname "$0")/../lib.sh"
source hack/kube/lib.sh

# The kubelet sets these for the whole machine: it finds files of ours instead.
SYSCTLS=(vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes)

# All before `make-rshared`: of a bind mount below something shared, both places would show what is mounted in one.
mounts() {
  local state=$1 directory key
  mkdir -p "$state"/{logs,pids,log,kubelet,containerd,model-csi,cni}
  mount -t tmpfs -o mode=755 tmpfs /run
  mkdir -p /run/lock "$NODE" /run/sysctl
  mount --rbind "$state" "$NODE"
  # The standard directories, and no trace of them on the machine.
  mkdir -p /run/var-lib/{upper,work}
  mount -t overlay -o lowerdir=/var/lib,upperdir=/run/var-lib/upper,workdir=/run/var-lib/work overlay /var/lib
  for directory in kubelet containerd model-csi cni; do
    mkdir -p "/var/lib/$directory"
    mount --bind "$NODE/$directory" "/var/lib/$directory"
  done
  mount --bind "$NODE/log" /var/log
  # A checkout below one of them (/var/lib/jenkins) is hidden by now, but still the working directory.
  if [[ ! $ROOT -ef . ]]; then
    mkdir -p "$ROOT"
    mount --no-canonicalize --rbind . "$ROOT"
  fi
  for key in "${SYSCTLS[@]}"; do
    [[ -e /proc/sys/$key ]] || continue
    mkdir -p "/run/sysctl/${key%/*}"
    cat "/proc/sys/$key" >"/run/sysctl/$key"
    mount --bind "/run/sysctl/$key" "/proc/sys/$key"
  done
  mount --make-rshared /
}

# Not the CNI plugin's `isGateway`, which would switch on forwarding: pods need to reach this node alone. With an address of its own: a
# bridge without one takes the lowest of its pods', and when that pod goes, the others lose the node for half a minute.
network() {
  ip link set lo up
  ip link add node0 address 0a:de:00:00:00:01 type bridge
  ip address add "$BRIDGE_IP/24" dev node0
  ip address add "$API_IP/32" dev node0
  ip link set node0 up
}

state=$1
shift
exec 9>&-
mounts "$state"
network
cd "$ROOT" # as it is mounted now
touch "$NODE/.sandbox"
if (($#)); then
  # Not exec: the first process reaps what containers leave.
  MODELCSI_SANDBOX=$(basename "$state") KUBECONFIG=$NODE/admin.kubeconfig "$@"
else
  while :; do
    sleep infinity &
    wait
  done
fi
