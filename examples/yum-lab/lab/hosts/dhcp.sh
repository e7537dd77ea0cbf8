# shellcheck shell=bash
# Leases addresses of the range, and knows the mirror by name.
serve() {
  await_link lan
  ip address add 10.77.0.1/24 dev lan
  cat >/etc/dnsmasq-lab.conf <<'CONF'
interface=lan
bind-interfaces
no-resolv
no-hosts
domain=yum-lab.test
local=/yum-lab.test/
host-record=mirror.yum-lab.test,10.77.0.2
dhcp-authoritative
dhcp-range=10.77.0.100,10.77.0.150,255.255.255.0,1h
dhcp-option=option:router
dhcp-leasefile=/run/dnsmasq.leases
user=root
CONF
  dnsmasq --keep-in-foreground --conf-file=/etc/dnsmasq-lab.conf --log-facility=- --log-dhcp &
}
