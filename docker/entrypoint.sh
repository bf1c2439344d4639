#!/usr/bin/env bash
# A node of a Ray cluster, or the command `capfilt`: what runs in the image, and outside of it just the same.
#
#   entrypoint.sh head [OPTION...]       the head: GCS, dashboard, job server; OPTIONs go to `ray start`
#   entrypoint.sh worker [OPTION...]     a worker: waits for the head at CAPFILT_HEAD, then joins it
#   entrypoint.sh health                 exit code 0 when the node of this container is alive
#   entrypoint.sh capfilt [ARGUMENT...]  the command itself; without anything: `capfilt --help`
#
# The token that every node, driver and client of the cluster must know: RAY_AUTH_TOKEN, or a file RAY_AUTH_TOKEN_PATH.
#
#   CAPFILT_HEAD            worker: host:port of the head                      head:6379
#   CAPFILT_WAIT            worker: seconds to wait for the head               120
#   CAPFILT_PORT            head: port of the GCS; not 10002 to 19999          6379
#   CAPFILT_DASHBOARD_HOST  head: where dashboard and job server listen        127.0.0.1
#   CAPFILT_DASHBOARD_PORT  head: their port                                   8265
#   CAPFILT_AGENT_PORT      port of the node's agent, which `health` asks      52365
#   CAPFILT_METRICS_PORT    port of the node's metrics, for Prometheus         8080
#   CAPFILT_OBJECT_STORE    bytes; image bytes never travel through it         134217728
#   CAPFILT_NODE_IP, CAPFILT_CPUS, CAPFILT_GPUS, CAPFILT_MEMORY (bytes), CAPFILT_RESOURCES (JSON),
#   CAPFILT_LABELS (a=b,c=d), CAPFILT_TEMP_DIR      as in `ray start`; unset: what Ray finds out by itself
#   CAPFILT_INSECURE=1      no token: whoever reaches a port may run code here
set -euo pipefail

say() { printf 'entrypoint: %s\n' "$*" >&2; }

# shellcheck disable=SC2016 # what is said is for the user's shell
demand_token() {
  export RAY_AUTH_MODE=token
  if [[ ${CAPFILT_INSECURE:-} == 1 ]]; then
    say 'CAPFILT_INSECURE=1: no authentication, whoever reaches a port of this node may run code on it'
    RAY_AUTH_MODE=disabled
  elif [[ -z ${RAY_AUTH_TOKEN:-} && ! (-f ${RAY_AUTH_TOKEN_PATH:-} && -s ${RAY_AUTH_TOKEN_PATH:-} && -r ${RAY_AUTH_TOKEN_PATH:-}) ]]; then
    say "no token: RAY_AUTH_TOKEN is empty, RAY_AUTH_TOKEN_PATH (${RAY_AUTH_TOKEN_PATH:-unset}) is no file to read one from"
    say 'without one whoever reaches the dashboard may run code on the cluster (CVE-2023-48022)'
    say 'make one: (umask 077; openssl rand -hex 32 > token); export RAY_AUTH_TOKEN_PATH=$PWD/token'
    exit 2
  elif [[ -n ${RAY_AUTH_TOKEN_PATH:-} ]]; then
    RAY_AUTH_TOKEN_PATH=$(realpath "$RAY_AUTH_TOKEN_PATH") # Ray's processes have other working directories
    export RAY_AUTH_TOKEN_PATH
  fi
}

# start OPTION...: become `ray start`, which stops its node on SIGTERM. Of an option given twice the last one counts.
start() {
  local -a options=(
    --block --disable-usage-stats
    "--object-store-memory=${CAPFILT_OBJECT_STORE:-134217728}"
    "--metrics-export-port=${CAPFILT_METRICS_PORT:-8080}"
    "--dashboard-agent-listen-port=${CAPFILT_AGENT_PORT:-52365}"
  )
  local option value
  while read -r option value; do
    [[ -z ${!value:-} ]] || options+=("--$option=${!value}")
  done <<'END'
node-ip-address CAPFILT_NODE_IP
num-cpus CAPFILT_CPUS
num-gpus CAPFILT_GPUS
memory CAPFILT_MEMORY
resources CAPFILT_RESOURCES
labels CAPFILT_LABELS
temp-dir CAPFILT_TEMP_DIR
END
  unset RAY_ADDRESS # Ray would look for the node there that is to be started here
  exec ray start "${options[@]}" "$@"
}

wait_for() {
  local host=${1%:*} port=${1##*:} seconds=${CAPFILT_WAIT:-120}
  trap 'exit 143' TERM INT # process 1 has no default action for a signal
  [[ $1 == *:* ]] || { say "CAPFILT_HEAD=$1 is not host:port" && exit 2; }
  # shellcheck disable=SC2016 # for the inner shell: an address must not become code
  until timeout 2 bash -c 'exec 3<>"/dev/tcp/$1/$2"' - "$host" "$port" 2>/dev/null; do
    if ((SECONDS >= seconds)); then
      say "no head at $1 after $seconds s: see that it runs and that CAPFILT_HEAD is its address"
      exit 1
    fi
    sleep 0.5
  done
  trap - TERM INT
}

case ${1:-} in
  head)
    demand_token
    start --head --include-dashboard=true "--port=${CAPFILT_PORT:-6379}" \
      "--dashboard-host=${CAPFILT_DASHBOARD_HOST:-127.0.0.1}" \
      "--dashboard-port=${CAPFILT_DASHBOARD_PORT:-8265}" "${@:2}"
    ;;
  worker)
    demand_token
    wait_for "${CAPFILT_HEAD:=head:6379}"
    start "--address=$CAPFILT_HEAD" "${@:2}"
    ;;
  health)
    exec python -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=4)' \
      "http://${CAPFILT_NODE_IP:-127.0.0.1}:${CAPFILT_AGENT_PORT:-52365}/api/local_raylet_healthz"
    ;;
  '') exec capfilt --help ;;
  *) exec "$@" ;;
esac
