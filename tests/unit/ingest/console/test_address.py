"""Whom a request is from, behind proxies that are trusted and those that are not."""

import pytest

from services.ingest.console.address import TrustedProxies

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),  # whoever connects may write what they like
        ("10.1.2.3", (), "10.1.2.3"),
        ("10.1.2.3", ("203.0.113.9",), "203.0.113.9"),
        ("10.1.2.3", ("198.51.100.1, 203.0.113.9",), "203.0.113.9"),  # the first was there when the proxy got it
        ("10.1.2.3", ("198.51.100.1", "203.0.113.9"), "203.0.113.9"),  # in a header of its own, too
        ("10.1.2.3", ("203.0.113.9, 10.9.9.9",), "203.0.113.9"),  # two proxies, one behind the other
        ("10.1.2.3", ("10.7.7.7, 10.9.9.9",), "10.7.7.7"),  # somebody inside
        ("10.1.2.3", ("nonsense",), "10.1.2.3"),
        ("10.1.2.3", ("203.0.113.9, ",), "10.1.2.3"),
        ("::ffff:10.1.2.3", ("2001:db8::1",), "2001:db8::1"),
        ("fd00::1%eth0", ("203.0.113.9",), "203.0.113.9"),
        ("", ("203.0.113.9",), ""),  # a socket of this machine
    ],
)
def test_the_nearest_address_that_is_no_trusted_proxy_counts(
    peer: str, forwarded_for: tuple[str, ...], address: str
) -> None:
    assert PROXIES.address(peer, forwarded_for) == address


def test_without_trusted_proxies_whoever_connects_counts() -> None:
    assert TrustedProxies().address("10.1.2.3", ("203.0.113.9",)) == "10.1.2.3"
