# shellcheck shell=bash
# A machine that knows nothing but its mirror's name, and gets even its address from the network.
serve() {
  await_link lan
  printf '[main]\ngpgcheck=1\n' >/etc/dnf/dnf.conf
  cat >/etc/yum.repos.d/mirror.repo <<'REPO'
[mirror]
name=The mirror of the lab
baseurl=http://mirror.yum-lab.test/
enabled=1
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-upstream
metadata_expire=0
REPO
  # The first request may be sent before anybody is there to answer.
  printf 'initial-interval 1;\nbackoff-cutoff 1;\nrequest subnet-mask, domain-name, domain-name-servers;\n' >/etc/dhcp/dhclient.conf
  dhclient -d -lf /var/lib/dhcp/lan.leases -pf /run/dhclient.pid lan &
}
