#!/usr/bin/env bash
# Boots the machine that make-image.sh made, in the foreground, its console on standard output. It ends
# with this program, or by `systemctl poweroff` inside.
#
#   boot.sh DIRECTORY
#
#   CLOCK_ADDRESS    where the ports below are on this machine (127.0.0.1)
#   CLOCK_SSH_PORT   leads to the machine's port 22 (2222)
#   CLOCK_HTTP_PORT  leads to its port 80 (8080)
#   CLOCK_DISK       another disk than DIRECTORY/disk.img, raw or qcow2. One with a boot loader boots by
#                    it; CLOCK_KERNEL=yes boots it with DIRECTORY's kernel, as a plain file system
#   CLOCK_FORGET     yes: what is written to the disk is gone afterwards
#   CLOCK_ACCEL      kvm or tcg, in the place of what a trial with a kernel finds out: DIRECTORY's, or
#                    this machine's; where there is none, tcg
#   CLOCK_ONLY_TELL  yes: says kvm or tcg, the processor and what the kernel is told, a line each, and
#                    boots nothing
#
# Inside, 10.0.2.2 is this machine: also for what listens on its loopback only.
set -euo pipefail

directory=${1:?the folder that make-image.sh made}
address=${CLOCK_ADDRESS:-127.0.0.1}
disk=${CLOCK_DISK:-$directory/disk.img}

# A machine inside of a machine may have a /dev/kvm on which nothing ever runs, so it is tried: the
# kernel says its name at once, or never.
usable_kvm() {
  local kernel
  kernel=$(find "$directory/vmlinuz" /boot/vmlinuz-* -readable -print -quit 2>/dev/null) || true
  [[ -w /dev/kvm && -n $kernel ]] || return 1
  timeout 8 qemu-system-x86_64 -accel kvm -m 256 -nographic -nodefaults -serial stdio -no-reboot \
    -kernel "$kernel" -append 'console=ttyS0 earlyprintk=serial panic=-1' </dev/null 2>/dev/null |
    grep -q -m1 'Linux version'
}

accelerator() {
  case ${CLOCK_ACCEL:-} in
    kvm) echo kvm ;;
    tcg) echo tcg,thread=multi ;;
    *) if usable_kvm; then echo kvm; else echo tcg,thread=multi; fi ;;
  esac
}

# An emulated processor is quicker without what every instruction of it would have to imitate, and has
# no hardware whose faults the kernel has to work around. On a busy machine its timer comes late, which
# is no reason to give up. A kernel that panics ends the machine, so that nobody waits for it.
accel=$(accelerator)
processor=Nehalem cmdline='root=/dev/vda rw console=ttyS0 quiet panic=-1 no_timer_check mitigations=off'
[[ $accel != kvm ]] || processor=host cmdline=${cmdline% no_timer_check*}
[[ ${CLOCK_ONLY_TELL:-} != yes ]] || {
  printf '%s\n' "${accel%%,*}" "$processor" "$cmdline"
  exit
}
format=raw
! head -c 3 "$disk" | grep -q QFI || format=qcow2
kernel=()
if [[ -z ${CLOCK_DISK:-} || ${CLOCK_KERNEL:-} == yes ]]; then
  kernel=(-kernel "$directory/vmlinuz" -initrd "$directory/initrd.img" -append "$cmdline")
fi
echo "boot: $disk with $accel"

exec qemu-system-x86_64 -name clock -accel "$accel" -cpu "$processor" -smp 2 -m 1024 \
  -nographic -nodefaults -serial stdio -no-reboot -device virtio-rng-pci \
  "${kernel[@]}" \
  -drive "file=$disk,format=$format,if=virtio,cache=unsafe,snapshot=$([[ ${CLOCK_FORGET:-} == yes ]] && echo on || echo off)" \
  -netdev "user,id=net,hostfwd=tcp:$address:${CLOCK_SSH_PORT:-2222}-:22,hostfwd=tcp:$address:${CLOCK_HTTP_PORT:-8080}-:80" \
  -device virtio-net-pci,netdev=net </dev/null
