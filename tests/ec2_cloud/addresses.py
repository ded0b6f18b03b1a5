"""Private and public addresses of instances.

Invariant: a private address is taken as long as an interface with it exists, and by nothing else; public addresses
are from a range that leads nowhere.
"""

import ipaddress
import random

from errors import AwsError

_PUBLIC = [str(a) for net in ("203.0.113.0/24", "198.51.100.0/24") for a in ipaddress.ip_network(net).hosts()]
# AWS keeps the first four addresses of a subnet and the last one.
_RESERVED_LOW, _RESERVED_HIGH = 4, 1


def taken(backend, subnet):
    """Private addresses that are in use in a subnet."""
    return {
        entry["PrivateIpAddress"]
        for eni in backend.enis.values()
        if eni.subnet.id == subnet.id
        for entry in eni.private_ip_addresses
    }


def usable(subnet):
    first = int(subnet.cidr.network_address)
    last = int(subnet.cidr.broadcast_address)
    return range(first + _RESERVED_LOW, last - _RESERVED_HIGH + 1)


def check(backend, subnet, address):
    """Raises AWS's error if a chosen address cannot be had."""
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        raise AwsError(
            "InvalidParameterValue", f"Value ({address}) for parameter address is invalid. Not an address."
        ) from None
    if ip not in subnet.cidr:
        raise AwsError("InvalidParameterValue", f"Address {address} does not fall within the subnet's address range")
    if int(ip) not in usable(subnet):
        raise AwsError("InvalidParameterValue", f"Address {address} is in subnet's reserved address range")
    if address in taken(backend, subnet):
        raise AwsError("InvalidIPAddress.InUse", f"Address {address} is in use.")


def pick(backend, subnet, count=1):
    """Free addresses of a subnet, the lowest first."""
    used = taken(backend, subnet)
    free = (str(ipaddress.IPv4Address(n)) for n in usable(subnet))
    found = [a for a, _ in zip((a for a in free if a not in used), range(count))]
    if len(found) < count:
        raise AwsError(
            "InsufficientFreeAddressesInSubnet",
            f"There are not enough free addresses in subnet '{subnet.id}' to satisfy the requested number of"
            " instances.",
        )
    return found


def public(backend):
    """A public address that no interface has."""
    used = {eni.public_ip for eni in backend.enis.values()}
    return random.choice([a for a in _PUBLIC if a not in used])


def install():
    """Takes the book-keeping of addresses away from moto, whose never frees any."""
    from moto.ec2.models.subnets import Subnet

    Subnet.request_ip = lambda self, ip, instance: None
    Subnet.del_subnet_ip = lambda self, ip: None
