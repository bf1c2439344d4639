"""Which addresses may be connected to: public ones, and what the recipe allows by name."""

import ipaddress
from collections.abc import Sequence

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.error import FetchError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Not public, whatever the tables say: protocol assignments (a cloud's metadata lives there), the 6to4 relays,
# and Azure's host, an address of the public kind that answers only from inside.
_CLOSED = tuple(map(ipaddress.IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check(address: str, port: int, allowed: Sequence[Network]) -> None:
    """Passes an address that may be connected to at that port.

    A public address may be asked at 80, 443 and from 1024 on, where the web's other servers are; the ports
    below belong to mail, shells and the like. An allowed network may be asked at any port.

    Raises:
        FetchError: PRIVATE_ADDRESS, or BAD_URL for the port.
    """
    parsed = ipaddress.ip_address(address)
    if any(parsed in network for network in allowed if network.version == parsed.version):
        return
    if not is_public(parsed):
        raise FetchError(Reason.PRIVATE_ADDRESS, address)
    if port < 1024 and port not in (80, 443):
        raise FetchError(Reason.BAD_URL, f"port {port}")


def is_public(address: Address) -> bool:
    """Whether everyone reaches it over the internet. An IPv6 address that embeds an IPv4 one is as public as that.

    The IPv4-mapped form is never public: no name resolves to it, only an attempt to hide does.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return (
            address.is_global
            and not address.is_multicast
            and not any(address in network for network in _CLOSED)
        )
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        return is_public(address.sixtofour)
    return address in _GLOBAL_V6 and address.is_global and not address.is_multicast
