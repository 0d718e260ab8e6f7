# Sourced, after ../lib.sh, by hack/cluster and its parts: where things are, and processes by name.
# shellcheck shell=bash disable=SC2034

CLUSTER=$CACHE/cluster
BIN=$CLUSTER/bin       # what build.sh built ...
IMAGES=$CLUSTER/images # ... and every archive in here is on the node when it comes up
LOGS=$CLUSTER/logs     # of the cluster that ended last

# Within the namespaces every path below is short, whatever the checkout's is: a unix socket's has 107 bytes.
NODE=/run/node
SOCKET=/run/containerd/containerd.sock
BRIDGE_IP=10.222.0.1 # the node, as pods see it: they are 10.222.0.0/24
API_IP=10.223.0.1    # the first service address: pods reach `kubernetes.default` without kube-proxy

export PATH=$BIN:$PATH

# The start time of a process; with the pid it names one for good. None for a zombie.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" && $1 != "X" { print $20 }'; }

# start NAME COMMAND...: in the background, in $NODE, logging to $NODE/logs/NAME.log.
start() {
  local name=$1
  shift
  printf '%q ' "$@" >"$NODE/pids/$name.command"
  (cd "$NODE" && exec setsid "$@") >>"$NODE/logs/$name.log" 2>&1 </dev/null &
  echo "$! $(started_at $!)" >"$NODE/pids/$name"
}

# again NAME: start what `stop` ended, with the arguments it had.
again() {
  [[ -e $NODE/pids/$1.command ]] || die "no process $1"
  ! is_running "$1" || die "$1 is running"
  eval "start $1 $(<"$NODE/pids/$1.command")"
}

is_running() { pid_of "$1" >/dev/null; }

# The pid of NAME if it is still the process that start began.
pid_of() {
  local pid born
  { read -r pid born <"$NODE/pids/$1"; } 2>/dev/null || return 1
  [[ -n $born && $(started_at "$pid") == "$born" ]] && echo "$pid"
}

# stop NAME [SECONDS]: TERM, and KILL after SECONDS; returns when it is gone.
stop() {
  local pid tries=$((${2:-10} * 10))
  pid=$(pid_of "$1") || return 0
  kill -TERM "$pid" 2>/dev/null
  for ((; tries > 0; tries--)); do
    is_running "$1" || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null
  while is_running "$1"; do sleep 0.05; done
}

# until_ok SECONDS NAME COMMAND...: poll until COMMAND succeeds; else show the log of process NAME and fail.
until_ok() {
  local end=$((SECONDS + $1)) name=$2
  shift 2
  until "$@" &>/dev/null; do
    if ((SECONDS >= end)) || ! is_running "$name"; then
      tail -n 20 "$NODE/logs/$name.log" >&2
      die "$name did not come up; its log ends above"
    fi
    sleep 0.1
  done
}

containerd_client() { ctr --address "$SOCKET" --namespace k8s.io "$@"; }
