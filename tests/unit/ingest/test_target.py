import pytest

from libs.common.egress import EgressRules
from services.ingest.target import url_errors


@pytest.mark.parametrize(
    "url",
    [
        "http://me@a.example/",
        "http://me:word@a.example",
        "https://@a.example/x",
        "https://:@a.example?q",
        "http://a@b@a.example#",
    ],
)
def test_a_user_or_password_in_a_url_is_refused(url: str) -> None:
    assert "userinfo" in {error.code for error in url_errors(url, EgressRules())}


@pytest.mark.parametrize("url", ["http://a.example/me@b", "http://a.example?to=me@b", "https://a.example/x//y@z"])
def test_an_at_sign_after_the_host_is_none(url: str) -> None:
    assert list(url_errors(url, EgressRules())) == []
