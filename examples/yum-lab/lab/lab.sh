#!/usr/bin/env bash
# A yum mirror and its neighbours on one machine: five hosts with networks, file trees and processes of
# their own, made of Linux namespaces.
#
#   upstream ──── mirror ──── switch ──── client        the mirror is the only way from left to right
#                   │            └─────── dhcp
#              this machine                             where mergeyard runs: by SSH and HTTP to the mirror
#
#   lab.sh [--name NAME] up               bring it up and say how mergeyard reaches the mirror
#   lab.sh [--name NAME] status           what each host is and does; exit code 1 when one is missing
#   lab.sh [--name NAME] in HOST COMMAND  run a command on a host
#   lab.sh [--name NAME] publish PACKAGE VERSION [MIB]   the upstream builds, signs and offers a package
#   lab.sh [--name NAME] slow KIB | fast  the upstream sends each file at so many KiB a second, or freely
#   lab.sh [--name NAME] cut|mend upstream|machine       the mirror's cable to its upstream or to this machine
#   lab.sh [--name NAME] down             remove all of it, also what a failed `up` left
#
# Labs with different names run side by side. Of this machine's network nothing is changed: it gets one
# interface, `yl-NAME`, with a network that no route of it knows yet.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
((EUID == 0)) || exec sudo -- "${BASH_SOURCE[0]}" "$@"
PATH=$PATH:/usr/sbin:/sbin

hosts=(switch upstream mirror dhcp client)
patience_seconds=30

main() {
  local name=lab
  if [[ ${1:-} == --name ]]; then
    name=${2:-}
    shift 2 || usage
  fi
  # The name is part of an interface's, which has at most 15 characters.
  [[ $name =~ ^[a-z0-9][a-z0-9-]{0,11}$ ]] || die "a lab's name is 1 to 12 lower-case letters, digits and '-', not '$name'"
  dir=/run/mergeyard-yum-lab/$name
  link=yl-$name
  local command=${1:-}
  shift || true
  case $command:$# in
    up:0 | down:0 | status:0 | fast:0 | slow:1 | cut:1 | mend:1 | publish:[23]) "$command" "$@" ;;
    in:0 | in:1) usage ;;
    in:*) inside "$@" ;;
    *) usage ;;
  esac
}

say() { printf 'yum-lab: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
usage() { sed -n 's/^#   \(lab\.sh\)/\1/p' "${BASH_SOURCE[0]}" >&2; exit 2; }

up() {
  local host program
  for program in unshare nsenter ip rpmbuild rpmsign gpg createrepo_c nginx sshd ssh-keygen dnf dnsmasq dhclient curl; do
    command -v "$program" >/dev/null || die "$program is missing; scripts/setup.sh --tests installs what the lab needs"
  done
  mkdir -p "${dir%/*}"
  mkdir -m 700 "$dir" 2>/dev/null || die "$dir is there already; remove that lab with: $0 --name ${dir##*/} down"
  trap 'failed' EXIT
  ssh-keygen -q -t ed25519 -N '' -C "mergeyard of the lab ${dir##*/}" -f "$dir/key"
  ssh-keygen -q -t ed25519 -N '' -C '' -f "$dir/host_key"
  [[ -z ${SUDO_UID:-} ]] || chown -R "$SUDO_UID" "$dir"
  for host in "${hosts[@]}"; do
    mkdir "$dir/$host"
    setsid unshare --mount --net --pid --uts --ipc --fork --kill-child bash "$here/host.sh" "$dir" "$host" \
      </dev/null >"$dir/$host.log" 2>&1 &
    disown
  done
  for host in "${hosts[@]}"; do await "$host" init_of "$host"; done
  cable upstream wan mirror wan
  for host in mirror dhcp client; do cable "$host" lan switch "$host"; done
  join_machine
  for host in "${hosts[@]}"; do
    await "$host" ready_or_ended "$host"
    init_of "$host" >/dev/null || die "$host has ended"
  done
  local key
  key=$(inside upstream cat /srv/upstream/RPM-GPG-KEY-upstream)
  for host in mirror client; do
    inside "$host" tee /etc/pki/rpm-gpg/RPM-GPG-KEY-upstream <<<"$key" >/dev/null
  done
  describe >"$dir/target.toml"
  trap - EXIT
  say "up; the mirror as a target of mergeyard is in $dir/target.toml:"
  cat "$dir/target.toml"
}

# What did not come up is of use to nobody; what it said is.
failed() {
  local host
  for host in "${hosts[@]}"; do
    [[ ! -s $dir/$host.log ]] || tail -5 "$dir/$host.log" | sed "s/^/yum-lab: $host: /" >&2
  done
  say "the lab did not come up; the last that its hosts said is above"
  down
}

# A host is one process, the first of its namespaces, and everything below it. With it go its processes,
# mounts and interfaces, so there is nothing to take down piece by piece.
down() {
  local pid
  for pid in $(processes); do kill -KILL "$pid" 2>/dev/null || true; done
  await "the end of all hosts" none_left
  ip link delete "$link" 2>/dev/null || true
  rm -rf "$dir"
}

status() {
  local host pid all=0
  for host in "${hosts[@]}"; do
    if pid=$(init_of "$host"); then
      printf '%-9s %s | %s\n' "$host" "$(addresses "$pid")" "$(programs "$pid")"
    else
      printf '%-9s is not there\n' "$host"
      all=1
    fi
  done
  return "$all"
}

addresses() { nsenter --target "$1" --net ip -4 -o address show scope global | awk '{ printf "%s%s %s", sep, $2, $4; sep = ", " }'; }
programs() { nsenter --target "$1" --pid --mount ps -e -o comm= | grep -vwE 'bash|ps|sleep' | sort -u | paste -sd ' '; }

inside() {
  local host=$1 pid
  shift
  pid=$(init_of "$host") || die "there is no host $host in the lab ${dir##*/}; bring it up with: $0 --name ${dir##*/} up"
  nsenter --target "$pid" --mount --net --pid --uts --ipc --root --wd \
    env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" "$@"
}

publish() { inside upstream /opt/yum-lab/publish.sh "$@"; }

slow() {
  [[ $1 =~ ^[1-9][0-9]*$ ]] || die "slow wants a number of KiB a second, not '$1'"
  pace "$1k"
}
fast() { pace 0; }

pace() {
  inside upstream sh -c "echo 'limit_rate $1;' >/etc/nginx/pace.conf && kill -HUP \$(cat /run/nginx.pid)"
}

cut() { turn "$1" down; }
mend() { turn "$1" up; }

turn() {
  case $1 in
    upstream) inside upstream ip link set wan "$2" ;;
    machine) ip link set "$link" "$2" ;;
    *) die "there are cables to the upstream and to this machine, not to '$1'" ;;
  esac
}

# Joins interface $2 of host $1 with interface $4 of host $3.
cable() { ip link add name "$2" netns "$(init_of "$1")" type veth peer name "$4" netns "$(init_of "$3")"; }

# The one cable between the lab and this machine. Its network is made of the number that the kernel gives
# each interface, so no two labs have the same one, and lies in the range that is kept for laboratories
# (RFC 2544). Where some route of the machine leads into it, the next number is tried.
join_machine() {
  local mirror index network
  mirror=$(init_of mirror)
  for _ in {1..64}; do
    ip link add name "$link" type veth peer name ci netns "$mirror"
    index=$(ip -o link show dev "$link" | command cut -d: -f1)
    network=198.$((18 + (index >> 14 & 1))).$((index >> 6 & 255))
    local last=$(((index & 63) * 4))
    if unknown "$network.$last/30"; then
      ip address add "$network.$((last + 1))/30" dev "$link"
      ip link set "$link" up
      nsenter --target "$mirror" --net ip address add "$network.$((last + 2))/30" dev ci
      nsenter --target "$mirror" --net ip link set ci up
      echo "$network.$((last + 2))" >"$dir/address"
      return
    fi
    ip link delete "$link"
  done
  die "no free network for $link: routes of this machine cover 198.18.0.0/15"
}

unknown() { ! { ip -4 route show root "$1" && ip -4 route show match "$1"; } | grep -qv '^default'; }

ready_or_ended() { ! init_of "$1" >/dev/null || ready "$1"; }

ready() (
  exec 2>/dev/null
  case $1 in
    switch) inside switch bridge link show | grep -c 'state forwarding' | grep -qx 3 ;;
    upstream) inside upstream curl -fs -o /dev/null http://10.78.0.1/repodata/repomd.xml ;;
    mirror) ssh-keyscan -T 2 -t ed25519 "$(<"$dir/address")" 2>/dev/null | grep -q ssh-ed25519 && answers ;;
    dhcp) inside dhcp ss -Hlun | grep -q ':67 ' ;;
    client) inside client ip -4 -o address show dev lan | grep -q dynamic ;;
  esac
)

# The web server is there; that it has nothing to offer yet is no fault.
answers() { curl -s -o /dev/null --max-time 2 "http://$(<"$dir/address")/"; }

describe() {
  cat <<TOML
[[target]]
name = "yum"
kind = "ssh"
address = "$(<"$dir/address")"
user = "mirror"
host_key = "$(awk '{ print $1, $2 }' "$dir/host_key.pub")"
key = { file = "$dir/key" }

[target.mirror]
root = "/var/www/yum"
url = "http://$(<"$dir/address")/"
upstreams = ["upstream"]
TOML
}

# The processes that make up this lab's hosts, known by their arguments: nothing has to be written down
# that could be lost, or be true of another process by the time it is read.
processes() {
  local file pid argv
  for file in /proc/[0-9]*/cmdline; do
    mapfile -d '' -t argv <"$file" || continue
    [[ " ${argv[*]} " == *"/host.sh $dir ${1:+$1 }"* ]] || continue
    pid=${file#/proc/}
    echo "${pid%/cmdline}"
  done 2>/dev/null
}

none_left() { [[ -z $(processes) ]]; }

# The first process of a host's own.
init_of() {
  local pid
  for pid in $(processes "$1"); do
    ! grep -qE '^NSpid:.*[0-9]+.*\s1$' "/proc/$pid/status" 2>/dev/null || { echo "$pid"; return; }
  done
  return 1
}

# Looks until a condition holds.
await() {
  local what=$1 deadline=$((SECONDS + patience_seconds))
  shift
  until "$@" >/dev/null; do
    ((SECONDS < deadline)) || die "waited $patience_seconds s in vain for $what"
    sleep 0.05
  done
}

main "$@"
