"""Which values of headers nobody gets to see."""

import pytest

from libs.common.contracts import Call
from services.ingest.console.redaction import header_lines, is_secret, without_secrets
from services.ingest.curl import curl_command


@pytest.mark.parametrize(
    "name",
    ["Authorization", "authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-API-Key", "x-api-key",
     "X-Client-Secret", "X-Access-Token", "X-Hub-Signature-256", "Stripe-Signature", "Api-Key", "X-Auth", "X-Password",
     "X-Session-Id", "X-Amz-Credential", "CF-Access-Client-Secret", "Private-Token"],
)  # fmt: skip
def test_a_header_that_carries_a_secret_is_known_by_its_name(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["Content-Type", "X-Order", "Accept", "User-Agent", "WWW-Authenticate", "Retry-After", "X-Request-Id"]
)
def test_others_are_shown(name: str) -> None:
    assert not is_secret(name)


def test_the_line_of_a_secret_has_no_value() -> None:
    lines = header_lines([("X-Order", "42"), ("Authorization", "Bearer hunter2"), ("X-Empty", "")])
    assert [tuple(line) for line in lines] == [("X-Order", "42"), ("Authorization", None), ("X-Empty", "")]


def test_no_secret_stands_in_the_line_to_copy() -> None:
    headers = (("Authorization", "Bearer hunter2"), ("X-Api-Key", "hunter3"), ("X-A", "b"))
    call = Call(url="https://example.com/", headers=headers)
    line = curl_command(without_secrets(call))
    assert "hunter" not in line
    assert "'Authorization: <your Authorization>'" in line
    assert "X-A: b" in line
