"""IPv4 addresses as numbers, so that a playbook can compare them."""

import ipaddress

from ansible.errors import AnsibleFilterError


def number(address):
    """10.77.0.1 -> 172818433"""
    try:
        return int(ipaddress.IPv4Address(address))
    except ValueError as error:
        raise AnsibleFilterError(f"not an IPv4 address: {error}") from error


def hosts(network):
    """10.77.0.0/24 -> the first and last address that a machine can have, and the mask."""
    try:
        parsed = ipaddress.IPv4Network(network)
    except ValueError as error:
        raise AnsibleFilterError(f"not an IPv4 network: {error}") from error
    # The lowest address is the network's own, the highest its broadcast's.
    return {
        "first": int(parsed.network_address) + 1,
        "last": int(parsed.broadcast_address) - 1,
        "mask": str(parsed.netmask),
    }


class FilterModule:
    def filters(self):
        return {"ipv4_number": number, "ipv4_hosts": hosts}
