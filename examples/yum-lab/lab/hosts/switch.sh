# shellcheck shell=bash
# What clients and servers are plugged into.
serve() {
  local port
  ip link add name lan type bridge forward_delay 0
  ip link set lan up
  for port in mirror dhcp client; do
    await_link "$port"
    ip link set "$port" master lan
  done
  sleep infinity &
}
