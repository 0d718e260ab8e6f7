#!/usr/bin/env bash
# node.sh up|reboot|load ARCHIVE...|stop|start|restart NAME: the processes of a one-node Kubernetes, within the namespaces that sandbox.sh prepared.
source "$(dirname "$0")/../lib.sh"
source hack/kube/lib.sh

NAME=n1
CNI_PLUGINS=/usr/lib/cni
export KUBECONFIG=$NODE/admin.kubeconfig
CGROUP=$(cat "$NODE/cgroup" 2>/dev/null || true) # of all pods; hack/cluster made the name, and removes it
SERIAL=$SECONDS

# identity FILE USER [GROUP]: a token for USER, and a kubeconfig that holds it.
identity() {
  local token
  token=$(openssl rand -hex 16)
  echo "$token,$2,$2${3:+,\"$3\"}" >>pki/tokens.csv
  cat >"$1" <<YAML
apiVersion: v1
kind: Config
current-context: node
contexts: [{name: node, context: {cluster: node, user: node}}]
clusters: [{name: node, cluster: {server: "https://$API_IP", certificate-authority: $NODE/pki/api/apiserver.crt}}]
users: [{name: node, user: {token: $token}}]
YAML
}

keys() {
  umask 077
  mkdir -p pki etcd
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out pki/sa.key
  openssl pkey -in pki/sa.key -pubout -out pki/sa.pub
  # The only certificate that the kubelet's own port accepts: the API server's.
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7 \
    -subj '/O=system:masters/CN=kube-apiserver-kubelet-client' -keyout pki/client.key -out pki/client.crt 2>/dev/null
  identity "$KUBECONFIG" admin system:masters
  identity pki/controller-manager.kubeconfig system:kube-controller-manager
  identity pki/scheduler.kubeconfig system:kube-scheduler
  identity pki/kubelet.kubeconfig "system:node:$NAME" system:nodes
  umask 022
}

settings() {
  local snapshotter=overlayfs
  # Where the checkout is in a container's own overlay, there is no second one.
  [[ $(stat --file-system --format=%T /var/lib/containerd) != overlayfs ]] || snapshotter=native
  mkdir -p net.d
  cat >net.d/10-node.conflist <<JSON
{"cniVersion": "1.0.0", "name": "node", "plugins": [
  {"type": "bridge", "bridge": "node0", "isGateway": false, "ipMasq": false,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.222.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
JSON
  # restrict_oom_score_adj: root without CAP_SYS_RESOURCE, as in many CI machines, could start no sandbox.
  cat >containerd.toml <<TOML
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.internal.v1.opt"]
  path = "/run/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_PLUGINS"
    conf_dir = "$NODE/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
TOML
  # - failCgroupV1, cgroupDriver: any machine, with systemd or without.
  # - makeIPTablesUtilChains: iptables need not be there.
  # - evictionHard, imageGCHighThresholdPercent: on a full disk it would delete images that no registry can bring back.
  # - authentication: an open kubelet port is root on the machine, even if only from within these namespaces.
  # - resolvConf, clusterDNS: no names here, which a refused connection says sooner than a lost one.
  cat >kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $BRIDGE_IP
healthzPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $NODE/pki/client.crt}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://$SOCKET
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
resolvConf: ""
clusterDNS: [$BRIDGE_IP]
maxPods: 200
volumePluginDir: /run/volume-plugins
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
imageGCHighThresholdPercent: 100
syncFrequency: ${KUBELET_SYNC:-1m}
volumeStatsAggPeriod: ${KUBELET_STATS:-10s}
shutdownGracePeriod: 0s
YAML
}

cgroups() {
  local directory
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
    mkdir -p "/sys/fs/cgroup/$CGROUP"
  else
    for directory in /sys/fs/cgroup/*/; do mkdir -p "$directory$CGROUP"; done
  fi
}

# etcd is reached by sockets in $NODE, where it runs: root alone gets in. Nothing in it outlives the cluster, so nothing is synced.
control_plane() {
  start etcd etcd --data-dir etcd --name node --initial-cluster node=unix://peer:0 \
    --listen-client-urls unix://client:0 --advertise-client-urls unix://client:0 \
    --listen-peer-urls unix://peer:0 --initial-advertise-peer-urls unix://peer:0 \
    --unsafe-no-fsync --heartbeat-interval=20 --election-timeout=100
  until_ok 30 etcd grep -q "ready to serve client" logs/etcd.log
  start kube-apiserver kube-apiserver --etcd-servers=unix://client:0 \
    --bind-address="$API_IP" --advertise-address="$API_IP" --secure-port=443 --cert-dir=pki/api \
    --service-cluster-ip-range=10.223.0.0/24 --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key \
    --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false \
    --kubelet-client-certificate=pki/client.crt --kubelet-client-key=pki/client.key \
    --kubelet-preferred-address-types=InternalIP
}

# kube-api-qps: a credential per controller delays the first service account by four seconds; node-monitor-period: so does the taint.
controllers() {
  start kube-controller-manager kube-controller-manager --kubeconfig=pki/controller-manager.kubeconfig --secure-port=0 \
    --leader-elect=false --use-service-account-credentials=true --profiling=false \
    --kube-api-qps=500 --kube-api-burst=1000 --node-monitor-period=1s --flex-volume-plugin-dir=/run/volume-plugins \
    --service-account-private-key-file=pki/sa.key --root-ca-file=pki/api/apiserver.crt
  start kube-scheduler kube-scheduler --kubeconfig=pki/scheduler.kubeconfig --secure-port=0 --leader-elect=false --profiling=false
}

load() {
  local archive
  for archive; do
    [[ -e $archive ]] || die "no $archive: run hack/cluster build"
    containerd_client images import "$archive" &>>"$NODE/logs/images.log" || die "could not import $archive: see $NODE/logs/images.log"
  done
}

node_is_ready() { kubectl get node "$NAME" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -q True; }

# What the API server says of the node is old until then.
kubelet_reported_since() {
  [[ $(kubectl --namespace=kube-node-lease get lease "$NAME" -o 'jsonpath={.spec.renewTime}') > $1 ]] && node_is_ready
}

# Pods are refused until this account is there, and wait until the taint goes.
pods_can_run() {
  kubectl get serviceaccount default && ! kubectl get node "$NAME" -o 'jsonpath={.spec.taints[*].key}' | grep -q not-ready
}

up() {
  [[ ! -e pki ]] || die "it is up already"
  keys
  settings
  cgroups
  start containerd containerd --config containerd.toml
  control_plane
  until_serving containerd
  load "$IMAGES"/*.tar
  until_serving kube-apiserver
  controllers
  start kubelet kubelet --config=kubelet.yaml --kubeconfig=pki/kubelet.kubeconfig --cert-dir=pki/kubelet \
    --hostname-override="$NAME" --node-ip="$BRIDGE_IP" --v="${KUBELET_V:-2}"
  until_ok 90 kubelet node_is_ready
  until_ok 30 kube-controller-manager pods_can_run
  say "up after $((SECONDS - SERIAL)) s: node $NAME, Kubernetes $(kubectl get node "$NAME" -o 'jsonpath={.status.nodeInfo.kubeletVersion}')"
}

# until_serving NAME: those that others ask at once.
until_serving() {
  case $1 in
    containerd) until_ok 30 containerd containerd_client version ;;
    kube-apiserver) until_ok 90 kube-apiserver kubectl get --raw /readyz ;;
  esac
}

# until_gone COMMAND...: a killed process is in its cgroup for a moment; a directory that stays costs the kubelet's cadvisor 3 s.
until_gone() {
  local tries
  for ((tries = 50; tries > 0; tries--)); do
    ! "$@" 2>/dev/null || return 0
    sleep 0.1
  done
  die "processes of pods do not end"
}

# As after a power cut: whatever the node ran is dead at once, no mount is left, /run is empty; disks are as they were. The API
# server is another machine's.
reboot() {
  local pid mount began
  stop kubelet 0
  stop containerd 0
  began=$(date --utc +%FT%T.%6NZ)
  # The shims first, or they report a pod's end to nobody, and its mounts are undone in good order.
  for pid in /proc/[0-9]*; do
    [[ $(readlink "$pid/exe") != */containerd-shim* ]] || kill -KILL "${pid#/proc/}" 2>/dev/null || true
  done
  find /sys/fs/cgroup -path "*/$CGROUP/*" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u |
    while read -r pid; do ((pid == 0)) || kill -KILL "$pid" 2>/dev/null || true; done
  until_gone find /sys/fs/cgroup -depth -type d -path "*/$CGROUP/*" -exec rmdir {} +
  awk '$5 ~ "^(/var/lib/(kubelet|containerd|model-csi)|/run/(containerd|netns|opt))/" { print $5 }' /proc/self/mountinfo | tac |
    while read -r mount; do umount --lazy "$mount" || true; done
  rm -rf /run/containerd /run/netns
  # They go with the namespaces of the killed processes, too, which takes the kernel a moment.
  ip -o link show master node0 | awk -F'[ @]+' '{ print $2 }' | while read -r pid; do ip link delete "$pid" 2>/dev/null || true; done
  again containerd
  until_serving containerd
  again kubelet
  until_ok 90 kubelet kubelet_reported_since "$began"
}

[[ ${MODELCSI_SANDBOX-} && -e $NODE/.sandbox ]] || die "not within the namespaces: use hack/cluster"
for program in containerd ctr runc ip openssl "$CNI_PLUGINS/bridge" "$CNI_PLUGINS/host-local"; do
  command -v "$program" >/dev/null || die "$program is not there: run hack/cluster build"
done
command=${1-}
shift || true
[[ $command == load ]] || cd "$NODE" # archives are named from where the caller is
case $command in
  up) up ;;
  reboot) reboot ;;
  load) load "$@" ;;
  stop) stop "${1?which}" ;;
  start) again "${1?which}" && until_serving "$1" ;;
  restart) stop "${1?which}" && again "$1" && until_serving "$1" ;;
  *) die "unknown command: $command" ;;
esac
