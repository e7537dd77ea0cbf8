#!/usr/bin/env bash
# Becomes one host of the lab, from inside fresh namespaces: gives itself a file tree and runs what the
# host is for. It is the host's first process; the host ends with it.
#
#   host.sh DIR HOST
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$1 host=$2

main() {
  own_tree "$dir/$host"
  hostname "$host"
  ip link set lo up
  export HOME=/root LANG=C.UTF-8
  cd /
  # shellcheck disable=SC1090
  . "/opt/yum-lab/hosts/$host.sh"
  serve
  # Nothing here ends by itself, so a host where something did is broken and does not pretend.
  wait -n || true
  die "a program of this host has ended; see above"
}

die() { printf '%s: %s\n' "$host" "$*" >&2; exit 1; }

# The machine's own tree with a layer in memory on top: every program is there, and what a host writes
# is its own and goes with it.
own_tree() {
  local base=$1 part
  mount -t tmpfs -o mode=755 yum-lab "$base"
  layer "$base" / root
  # An overlay shows one file system, and these may be others.
  for part in usr etc var home opt root srv; do
    ! mountpoint -q "/$part" || layer "$base" "/$part" "root/$part"
  done
  cd "$base/root"
  mkdir -p proc sys dev run tmp
  mount -t proc proc proc
  mount -t sysfs sysfs sys
  mount --rbind /dev dev
  mount -t tmpfs -o mode=755 tmpfs run
  rm -rf opt/yum-lab etc/yum.repos.d etc/distro.repos.d etc/dnf etc/resolv.conf
  mkdir -p opt etc/yum.repos.d etc/dnf etc/pki/rpm-gpg run/lock
  cp -r "$here" opt/yum-lab
  cp "$dir/host_key" "$dir/key.pub" opt/yum-lab
  printf '127.0.0.1 localhost %s\n' "$host" >etc/hosts
  : >etc/resolv.conf
  mount -t tmpfs -o mode=1777 tmpfs tmp
  pivot_root . .
  umount -l .
  cd /
}

layer() {
  local upper=$1/layers/${3//\//-}
  mkdir -p "$upper/own" "$upper/work" "$1/$3"
  mount -t overlay overlay -o "lowerdir=$2,upperdir=$upper/own,workdir=$upper/work" "$1/$3"
}

# Cables are plugged in from outside, after the host has begun.
# shellcheck disable=SC2317  # hosts/*.sh call it
await_link() {
  local deadline=$((SECONDS + 30))
  until ip link show dev "$1" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "nobody plugged in $1"
    sleep 0.02
  done
  ip link set "$1" up
}

main
