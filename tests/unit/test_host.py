import pytest

from libs.common.host import host_of


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.com/hook", "api.example.com"),
        ("https://API.Example.com:8443/hook?x=@y", "api.example.com:8443"),
        ("http://user:pa@ss@api.example.com", "api.example.com"),
        ("http://api.example.com?x=/", "api.example.com"),
        ("http://api.example.com#/", "api.example.com"),
        ("http://[2001:db8::1]:8080/x", "[2001:db8::1]:8080"),
        ("nonsense", ""),
    ],
)
def test_the_host_of_a_url_is_its_name_and_port(url: str, host: str) -> None:
    assert host_of(url) == host
