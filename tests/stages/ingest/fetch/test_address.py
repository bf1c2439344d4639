import ipaddress

import pytest

from capfilt.data_contracts.rejects import Reason
from capfilt.stages.ingest.fetch.address import check
from capfilt.stages.ingest.fetch.error import FetchError

PRIVATE = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.9.9.9",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "203.0.113.7",
    "224.0.0.1",
    "224.0.1.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a00:1::1",
    "2002:a9fe:a9fe::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]
PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700::1111",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(FetchError) as fetch_error:
        check(address, 80, ())
    assert fetch_error.value.reason is Reason.PRIVATE_ADDRESS


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_may_be_asked(address: str) -> None:
    check(address, 443, ())
    check(address, 8080, ())


@pytest.mark.parametrize("address", PRIVATE)
def test_a_network_that_is_named_is_allowed_and_no_other(address: str) -> None:
    check(address, 25, [ipaddress.ip_network(address)])
    others = [ipaddress.ip_network("10.0.0.0/16"), ipaddress.ip_network("fd00::/24")]
    with pytest.raises(FetchError):
        check(address, 80, others)


@pytest.mark.parametrize("port", [1, 22, 25, 111, 993])
def test_ports_that_are_not_the_webs_are_refused(port: int) -> None:
    with pytest.raises(FetchError) as fetch_error:
        check("8.8.8.8", port, ())
    assert fetch_error.value.reason is Reason.BAD_URL
