# shellcheck shell=bash
# A distribution's package repository, as far from here as the internet: only the mirror has a cable to it.
serve() {
  await_link wan
  ip address add 10.78.0.1/24 dev wan
  mkdir -p /srv/upstream
  make_key
  createrepo_c --quiet /srv/upstream
  echo >/etc/nginx/pace.conf
  nginx -c /opt/yum-lab/upstream.conf &
}

# The key that packages are signed with; its public half is what mirrors and clients are told to trust.
make_key() {
  gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-generate-key 'Upstream of the lab' rsa2048 sign never
  gpg --batch --quiet --armor --export >/srv/upstream/RPM-GPG-KEY-upstream
}
