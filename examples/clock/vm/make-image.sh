#!/usr/bin/env bash
# Makes a virtual machine from Debian's packages: its disk, and beside it the kernel and the first
# file system that it is booted with, so that the disk needs no boot loader and no partitions.
#
#   make-image.sh DIRECTORY [PUBLIC-KEY-FILE]
#
# The machine lets in root with that key. Without one, DIRECTORY gets a key pair of its own. The
# machine's own key is made here too, so it is known before the first login and can be pinned.
#
#   DIRECTORY/disk.img      one ext4 file system: systemd, sshd, Python, Docker
#   DIRECTORY/vmlinuz, initrd.img
#   DIRECTORY/host_key.pub  the machine's key: `host_key` of a [[target]]
#   DIRECTORY/id_ed25519    the way in, unless a key was given
#
# It needs mmdebstrap, e2fsprogs and openssh-client; without root also fakeroot and uidmap. A
# machine that was made completely stays as it is.
# shellcheck disable=SC2016  # what stands in single quotes is for the shell of a hook
set -euo pipefail

suite=bookworm
disk_size=4G
packages=(
  systemd-sysv systemd-resolved udev dbus ca-certificates iproute2 apt
  linux-image-cloud-amd64 initramfs-tools   # small, and has the drivers of virtual machines only
  openssh-server python3 python3-apt        # what Ansible needs
  docker.io apparmor iptables python3-requests # what the playbook would install, so that it needs no archive
)

main() {
  (($# == 1 || $# == 2)) || { sed -n '2,/^set -/{/^# /s/^# //p}' "$0"; exit 2; }
  mkdir -p "$1"
  out=$(cd "$1" && pwd)
  local key=${2:-}
  exec 9>"$out/.lock"
  flock 9
  [[ ! -e $out/complete ]] || return 0
  work=$(mktemp -d "$out/.work.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  chmod 755 "$work"
  if [[ -z $key ]]; then
    key=$out/id_ed25519.pub
    [[ -e $key ]] || ssh-keygen -q -t ed25519 -N '' -C clock-vm -f "$out/id_ed25519"
  fi
  prepare "$key"
  bootstrap
  if ((EUID == 0)); then make_disk; else fakeroot bash -euc "$(declare -f make_disk); $(declare -p out work disk_size); make_disk"; fi
  tar -xOf "$work/root.tar" --wildcards './boot/vmlinuz-*' >"$out/vmlinuz"
  tar -xOf "$work/root.tar" --wildcards './boot/initrd.img-*' >"$out/initrd.img"
  cut -d' ' -f1,2 "$work/files/etc/ssh/ssh_host_ed25519_key.pub" >"$out/host_key.pub"
  touch "$out/complete"
}

# What the machine has besides its packages.
prepare() {
  local files=$work/files
  install -d -m 755 "$files"/etc{,/ssh,/ssh/sshd_config.d,/systemd,/systemd/network} "$files/etc/systemd/system.conf.d"
  install -d -m 700 "$files/root" "$files/root/.ssh"
  install -m 600 "$1" "$files/root/.ssh/authorized_keys"
  ssh-keygen -q -t ed25519 -N '' -C root@clock -f "$files/etc/ssh/ssh_host_ed25519_key"
  cat >"$files/etc/ssh/sshd_config.d/clock.conf" <<'SSHD'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
SSHD
  cat >"$files/etc/systemd/network/wired.network" <<'NETWORK'
[Match]
Type=ether
Driver=virtio_net

[Network]
DHCP=yes
NETWORK
  echo clock >"$files/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 clock\n::1 localhost\n' >"$files/etc/hosts"
  echo '/dev/vda / ext4 errors=remount-ro,noatime 0 1' >"$files/etc/fstab"
  # A first boot would ask and wait for what an empty one means.
  : >"$files/etc/machine-id"
}

# Where this machine gets its packages from, with the proxies that it needs for that.
bootstrap() {
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-)[^ ]* "[^"]+";$' >"$work/apt.conf" || true
  local log=$out/bootstrap.log
  env -u SOURCE_DATE_EPOCH TMPDIR="$work" mmdebstrap --quiet --variant=minbase --include="${packages[*]}" \
    --aptopt="$work/apt.conf" --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --customize-hook='rm -f "$1"/etc/ssh/ssh_host_*' \
    --customize-hook="sync-in $work/files /" \
    --customize-hook='chroot "$1" chown -R 0:0 /root /etc/ssh' \
    --customize-hook='chroot "$1" systemctl --quiet enable systemd-networkd systemd-resolved ssh docker' \
    --customize-hook='chroot "$1" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-networkd-wait-online.service' \
    "$suite" "$work/root.tar" 2>&1 </dev/null | tee "$log" >&2
}

# No root is needed to own files inside of a file system that nobody has mounted.
make_disk() {
  mkdir "$work/root"
  tar -xf "$work/root.tar" --numeric-owner -C "$work/root" --exclude='./dev/*'
  rm -f "$out/disk.img"
  truncate -s "$disk_size" "$out/disk.img"
  PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -L clock -d "$work/root" "$out/disk.img"
}

main "$@"
