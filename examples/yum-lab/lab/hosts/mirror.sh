# shellcheck shell=bash
# The mirror as mergeyard finds it: a user to log in as, tools, a folder that is served, an upstream.
serve() {
  await_link wan
  ip address add 10.78.0.2/24 dev wan
  await_link lan
  ip address add 10.77.0.2/24 dev lan
  useradd --create-home --shell /bin/bash --password '*' mirror
  install -d -o mirror -g mirror -m 755 /var/www/yum
  configure_dnf
  start_sshd
  nginx -c /opt/yum-lab/mirror.conf &
}

configure_dnf() {
  # A cable that is cut is to be noticed within seconds.
  cat >/etc/dnf/dnf.conf <<'CONF'
[main]
gpgcheck=1
timeout=5
retries=1
CONF
  cat >/etc/yum.repos.d/upstream.repo <<'REPO'
[upstream]
name=The upstream of the lab
baseurl=http://10.78.0.1/
enabled=1
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-upstream
REPO
}

start_sshd() {
  install -d -m 755 /run/sshd
  install -D -m 600 /opt/yum-lab/host_key /etc/yum-lab/host_key
  install -D -m 644 /opt/yum-lab/key.pub /etc/yum-lab/authorized_keys
  cat >/etc/yum-lab/sshd_config <<'CONF'
HostKey /etc/yum-lab/host_key
AuthorizedKeysFile /etc/yum-lab/authorized_keys
AllowUsers mirror
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
ClientAliveInterval 5
ClientAliveCountMax 2
CONF
  "$(command -v sshd)" -D -e -f /etc/yum-lab/sshd_config &
}
