"""What the lean caller makes of a URL."""

import pytest

from services.dispatcher.http.target import Origin, Target, is_odd_address, target_of


@pytest.mark.parametrize(
    ("url", "is_tls", "host", "port", "authority", "path"),
    [
        ("http://a.example", False, "a.example", 80, "a.example", "/"),
        ("https://a.example/x", True, "a.example", 443, "a.example", "/x"),
        ("https://a.example:443/", True, "a.example", 443, "a.example", "/"),
        ("http://a.example:443/", False, "a.example", 443, "a.example:443", "/"),
        ("HTTP://A.Example:080/B", False, "a.example", 80, "a.example", "/B"),
        ("http://a.example?b=c", False, "a.example", 80, "a.example", "/?b=c"),
        ("http://a.example/?", False, "a.example", 80, "a.example", "/?"),
        ("http://a.example/#b?c", False, "a.example", 80, "a.example", "/"),
        ("http://a.example#b", False, "a.example", 80, "a.example", "/"),
        ("http://a.example/a%2Fb/../c;d?e=%zz&&", False, "a.example", 80, "a.example", "/a%2Fb/../c;d?e=%zz&&"),
        ("http://a.example/é?ü=☃", False, "a.example", 80, "a.example", "/%C3%A9?%C3%BC=%E2%98%83"),
        ("http://a.example//b.example/", False, "a.example", 80, "a.example", "//b.example/"),
        ("http://a.example./", False, "a.example", 80, "a.example", "/"),
        ("http://münchen.example/", False, "xn--mnchen-3ya.example", 80, "xn--mnchen-3ya.example", "/"),
        ("http://192.0.2.1:8080/", False, "192.0.2.1", 8080, "192.0.2.1:8080", "/"),
        ("https://[2001:DB8::1]/", True, "2001:db8::1", 443, "[2001:db8::1]", "/"),
        ("http://[::1]:8080", False, "::1", 8080, "[::1]:8080", "/"),
    ],
)
def test_a_url_names_an_origin_an_authority_and_a_path(
    url: str, is_tls: bool, host: str, port: int, authority: str, path: str
) -> None:
    assert target_of(url) == Target(Origin(is_tls, host, port), authority, path)


@pytest.mark.parametrize(
    "url",
    ["", "x", "/x", "//a.example/", "ftp://a.example/", "http:a.example", "http://", "http:///x", "http://:80/", "http://?x",
     "http://user@a.example/", "http://user:word@a.example/", "http://@a.example/", "http://a.example:99999/",
     "http://a.example:x/", "http://a.example:0/", "http://[::1", "http://a b/", "http://a.example/a b", "http://a.example/\r\n",
     "http://a.example/\n", "http://a.example/\0", "http://a.example/\x7f", "http://a\r\nb/", "http://\ud83d.example/",
     "http://a.example/\ud83d", " http://a.example/", "http://./"],
)  # fmt: skip
def test_what_cannot_be_called_says_so(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        target_of(url)


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0", "1.2.3.4.5", "a.1", "0x"])
def test_an_address_in_another_spelling_is_odd(host: str) -> None:
    assert is_odd_address(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "a.example", "1.example", "::1", "::ffff:192.0.2.1", "fe80::1%eth0", "0xdead.example", "3com"]
)
def test_a_name_or_a_plain_address_is_not(host: str) -> None:
    assert not is_odd_address(host)
