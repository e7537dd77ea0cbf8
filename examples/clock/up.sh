#!/usr/bin/env bash
# The clock on a virtual machine of this machine, with one command: builds both images into a private
# registry, boots the machine, runs the playbook, and says where the clock is. Again, it changes only
# what is not so yet.
#
#   up.sh           brings it up, or up to date
#   up.sh --check   says what the playbook would change
#   up.sh --down    ends the machine and the registry; what they hold stays for the next time
#   up.sh --forget  the same, and removes what they hold
#
# Images that are published already are pulled instead, by digest, from where the machine reaches them:
#   CLOCK_BACKEND_IMAGE, CLOCK_FRONTEND_IMAGE   HOST/NAME@sha256:…
#   CLOCK_REGISTRY_USER, CLOCK_REGISTRY_PASSWORD, CLOCK_REGISTRY_CA (a file)
# Where things are:
#   CLOCK_STATE           what this program keeps (.state beside it)
#   CLOCK_MERGEYARD       the program `mergeyard`, whose registry is used
#   CLOCK_REGISTRY_PORT   of that registry on loopback (5055)
#   CLOCK_BOOT_SECONDS    until the machine lets in (300)
#   CLOCK_ADDRESS, CLOCK_SSH_PORT, CLOCK_HTTP_PORT, CLOCK_DISK, CLOCK_KERNEL, CLOCK_ACCEL   see vm/boot.sh
# A disk of your own (CLOCK_DISK) lets in whom it was made for:
#   CLOCK_HOST_KEY        a file with its host key, as in /etc/ssh/ssh_host_ed25519_key.pub; nothing is trusted without
#   CLOCK_KEY             the file of the private key that it lets in
#   CLOCK_USER            whom it lets in (root); another than root becomes root by sudo
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${CLOCK_STATE:-$here/.state}
mergeyard=${CLOCK_MERGEYARD:-mergeyard}
registry_port=${CLOCK_REGISTRY_PORT:-5055}
export CLOCK_ADDRESS=${CLOCK_ADDRESS:-127.0.0.1} CLOCK_SSH_PORT=${CLOCK_SSH_PORT:-2222} CLOCK_HTTP_PORT=${CLOCK_HTTP_PORT:-8080}
user=${CLOCK_USER:-root}
# Under software emulation a machine takes its time.
boot_seconds=${CLOCK_BOOT_SECONDS:-300}

main() {
  mkdir -p "$state"
  state=$(cd "$state" && pwd)
  key=$(realpath -m "${CLOCK_KEY:-$state/vm/id_ed25519}")
  host_key=$(realpath -m "${CLOCK_HOST_KEY:-$state/vm/host_key.pub}")
  [[ -z ${CLOCK_DISK:-} ]] || CLOCK_DISK=$(realpath "$CLOCK_DISK")
  case ${1:-} in
    '') up ;;
    --check) up --check --diff ;;
    --down) down ;;
    --forget)
      down
      rm -rf "$state"
      ;;
    *)
      sed -n '2,/^set -/{/^# /s/^# //p}' "$0"
      exit 2
      ;;
  esac
}

up() {
  [[ -z ${CLOCK_DISK:-} || (-n ${CLOCK_HOST_KEY:-} && -n ${CLOCK_KEY:-}) ]] ||
    die "set CLOCK_HOST_KEY to a file with the host key of $CLOCK_DISK, and CLOCK_KEY to the private key that it lets in"
  images
  machine
  say "configuring"
  playbook "$@"
  say "the clock is at http://$CLOCK_ADDRESS:$CLOCK_HTTP_PORT/ ; log in with: ssh -F $state/ssh_config clock"
}

say() { printf 'up: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# Writes what the playbook is to know of the images into $state/images.json.
images() {
  if [[ -n ${CLOCK_BACKEND_IMAGE:-} || -n ${CLOCK_FRONTEND_IMAGE:-} ]]; then
    [[ -n ${CLOCK_BACKEND_IMAGE:-} && -n ${CLOCK_FRONTEND_IMAGE:-} ]] || die "set both CLOCK_BACKEND_IMAGE and CLOCK_FRONTEND_IMAGE, or none"
    local ca=${CLOCK_REGISTRY_CA:-/dev/null}
    variables "$CLOCK_BACKEND_IMAGE" "$CLOCK_FRONTEND_IMAGE" "${CLOCK_BACKEND_IMAGE%%/*}" "$ca" \
      "${CLOCK_REGISTRY_USER:-}" "${CLOCK_REGISTRY_PASSWORD:-}"
    return
  fi
  registry
  local inside=10.0.2.2:$registry_port
  variables "$inside/$(publish backend)" "$inside/$(publish frontend)" "$inside" "$state/registry/ca/ca.crt" \
    clock "$(cat "$state/robot")"
}

variables() {
  (umask 077 && jq -n --arg backend "$1" --arg frontend "$2" --arg registry "$3" --rawfile ca "$4" --arg user "$5" --arg password "$6" \
    '{clock_backend_image: $backend, clock_frontend_image: $frontend, docker_registry: $registry, docker_registry_ca: $ca,
      docker_registry_user: $user, docker_registry_password: $password}' >"$state/variables.json")
}

# The registry of mergeyard, for this machine and the one inside it, which knows it by another name.
registry() {
  command -v "$mergeyard" >/dev/null || die "there is no $mergeyard: set CLOCK_MERGEYARD to the program, or CLOCK_BACKEND_IMAGE and CLOCK_FRONTEND_IMAGE to published images"
  printf 'data_dir = "registry"\n[registry]\nlisten = "127.0.0.1:%s"\nhost = "10.0.2.2:%s"\n' "$registry_port" "$registry_port" >"$state/mergeyard.toml"
  if ! runs registry; then
    say "starting a registry on 127.0.0.1:$registry_port"
    start registry "$mergeyard" registry serve --config "$state/mergeyard.toml"
    waited_for "the registry" 30 "$state/registry.log" "runs registry" grep -q 'registry is ready' "$state/registry.log"
  fi
  [[ -s $state/robot ]] ||
    "$mergeyard" registry robot create clock --pull 'clock-*' --format json --config "$state/mergeyard.toml" | jq -r .secret >"$state/robot"
  DOCKER_CONFIG=$state/docker docker login --username mergeyard --password-stdin "127.0.0.1:$registry_port" \
    <"$state/registry/registry-password" >/dev/null 2>&1 || die "the engine cannot log in to the registry; see $state/registry.log"
}

# Builds and pushes one half of the clock; prints NAME@DIGEST. A version is never overwritten in the
# registry, so the image's own digest is its version.
publish() {
  local id name
  say "building the $1"
  id=$(docker build -q "$here/$1") || die "the $1 cannot be built"
  name=127.0.0.1:$registry_port/clock-$1:${id:7:12}
  docker tag "$id" "$name"
  DOCKER_CONFIG=$state/docker docker push "$name" >"$state/push.log" || die "the $1 cannot be pushed; see $state/push.log"
  printf 'clock-%s@%s' "$1" "$(sed -n 's/.* digest: \(sha256:[0-9a-f]*\) .*/\1/p' "$state/push.log")"
}

machine() {
  if [[ -z ${CLOCK_DISK:-} || ${CLOCK_KERNEL:-} == yes ]]; then
    "$here/vm/make-image.sh" "$state/vm"
  fi
  printf '[%s]:%s %s\n' "$CLOCK_ADDRESS" "$CLOCK_SSH_PORT" "$(cut -d' ' -f1,2 "$host_key")" >"$state/known_hosts"
  cat >"$state/ssh_config" <<CONFIG
Host clock
  HostName $CLOCK_ADDRESS
  Port $CLOCK_SSH_PORT
  User $user
  IdentityFile $key
  IdentitiesOnly yes
  ServerAliveInterval 15
  ServerAliveCountMax 4
  UserKnownHostsFile $state/known_hosts
  StrictHostKeyChecking yes
  ConnectTimeout 5
CONFIG
  local log=$state/vm.log alive="runs vm"
  if has_libvirt; then
    log=$state/vm/console.log alive=runs_by_libvirt
    boot_by_libvirt
  else
    runs vm || { say "booting" && start vm "$here/vm/boot.sh" "$state/vm"; }
  fi
  waited_for "the machine" "$boot_seconds" "$log" "$alive" ssh -F "$state/ssh_config" -o BatchMode=yes clock true
}

libvirt() { virsh -q -c qemu:///session "$@"; }
has_libvirt() { command -v virsh >/dev/null && libvirt version >/dev/null 2>&1; }
runs_by_libvirt() { has_libvirt && [[ $(libvirt domstate clock 2>/dev/null) == running ]]; }

boot_by_libvirt() {
  ! runs_by_libvirt || return 0
  say "booting by libvirt"
  mkdir -p "$state/vm"
  local disk=${CLOCK_DISK:-$state/vm/disk.img} format=raw
  local -a told
  mapfile -t told < <(CLOCK_ONLY_TELL=yes "$here/vm/boot.sh" "$state/vm")
  ! head -c 3 "$disk" | grep -q QFI || format=qcow2
  sed "s|@TYPE@|${told[0]/tcg/qemu}|; s|@DIRECTORY@|$state/vm|; s|@DISK@|$disk|; s|@FORMAT@|$format|
       s|@CMDLINE@|${told[2]}|; s|@ADDRESS@|$CLOCK_ADDRESS|g; s|@SSH@|$CLOCK_SSH_PORT|; s|@HTTP@|$CLOCK_HTTP_PORT|" "$here/vm/vm.xml" >"$state/vm.xml"
  [[ ${told[1]} == host ]] || sed -i "s|<cpu .*/>|<cpu mode=\"custom\"><model>${told[1]}</model></cpu>|" "$state/vm.xml"
  [[ -z ${CLOCK_DISK:-} || ${CLOCK_KERNEL:-} == yes ]] || sed -i -E '/^ *<(kernel|initrd|cmdline)>/d' "$state/vm.xml"
  libvirt create "$state/vm.xml"
}

playbook() {
  local inventory=$state/inventory.json
  jq -n --arg address "$CLOCK_ADDRESS" --argjson port "$CLOCK_SSH_PORT" --arg common "-o UserKnownHostsFile=$state/known_hosts -o StrictHostKeyChecking=yes -o ServerAliveInterval=15 -o ServerAliveCountMax=4" \
    --arg key "$key" --arg user "$user" \
    '{all: {hosts: {clock: {ansible_host: $address, ansible_port: $port, ansible_user: $user, ansible_ssh_common_args: $common, ansible_ssh_private_key_file: $key}}}}' >"$inventory"
  local -a arguments=(-i "$inventory" -e "@$state/variables.json" site.yml "$@")
  if ansible-doc --type module --list community.docker 2>/dev/null | grep -q docker_container; then
    (cd "$here/ansible" && ansible-playbook "${arguments[@]}")
  else
    docker build -q -t mergeyard-ansible "$here/ansible" >/dev/null
    docker run --rm --network host -v "$here/ansible:$here/ansible:ro" -v "$state:$state:ro" -v "$key:$key:ro" -w "$here/ansible" mergeyard-ansible "${arguments[@]}"
  fi
}

# What cannot be asked to end is ended, before anybody removes the disk under it.
down() {
  if runs vm || runs_by_libvirt; then
    say "ending the machine"
    ssh -F "$state/ssh_config" -o BatchMode=yes clock "$([[ $user == root ]] || echo sudo -n) systemctl poweroff" 2>/dev/null || true
    ended 60 runs_by_libvirt || libvirt destroy clock
    ended 60 runs vm || kill "$(cat "$state/vm.pid")"
  fi
  if runs registry; then
    kill "$(cat "$state/registry.pid")"
    ended 30 runs registry || true
  fi
  rm -f "$state/vm.pid" "$state/registry.pid"
}

# start NAME PROGRAM…: beyond the end of this one.
start() {
  local name=$1
  shift
  setsid nohup "$@" >"$state/$name.log" 2>&1 </dev/null &
  echo $! >"$state/$name.pid"
}

# Whether it is our program that has that number, and not another's since.
runs() {
  local pid
  pid=$(cat "$state/$1.pid" 2>/dev/null) && grep -sqaF "$state" "/proc/$pid/cmdline"
}

# ended SECONDS CONDITION…: whether it stops being so by then.
ended() {
  local deadline=$((SECONDS + $1))
  shift
  while "$@"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.2
  done
}

# waited_for WHAT SECONDS LOG ALIVE CONDITION…: while the words of ALIVE, one after another, are a command that holds.
waited_for() {
  local what=$1 deadline=$((SECONDS + $2)) log=$3 alive=$4
  shift 4
  until "$@" 2>/dev/null; do
    $alive || die "$what ended: $(tail -n 5 "$log")"
    ((SECONDS < deadline)) || die "$what does not answer: $(tail -n 5 "$log"); all of it is in $log"
    sleep 0.5
  done
}

main "$@"
