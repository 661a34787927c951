"""Signatures and secrets, held against the reference library, its own example and another HKDF."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from itertools import combinations

import pytest
from standardwebhooks.webhooks import Webhook

from libs.common.signing import secret, sign, whsec

MASTER_KEY = "m4st3r-k3y-0f-th3-t3sts-0123456789"


def test_a_signature_is_the_one_of_the_reference_implementations_example() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("body", [b"", b'{"a": 1}', "\u2603 \U0001f514 \x00".encode(), b"a\r\nb\n"])
def test_a_signature_is_what_the_library_makes(body: bytes) -> None:
    key, at = secret(MASTER_KEY, "shop", 1), datetime(2027, 3, 1, 9, tzinfo=UTC)
    wanted = Webhook(whsec(key)).sign("an-id", at, body.decode())
    assert sign(key, "an-id", int(at.timestamp()), body) == wanted


def test_a_body_that_is_no_text_is_signed_as_it_is() -> None:
    body = bytes(range(256))
    wanted = hmac.new(b"k" * 32, b"an-id.1." + body, hashlib.sha256).digest()
    assert sign(b"k" * 32, "an-id", 1, body) == "v1," + base64.b64encode(wanted).decode()


@pytest.mark.parametrize(
    ("project", "version", "wanted"),
    [
        ("shop", 1, "whsec_2s+TwldagPCnFaMh/+lIIOcNRLANVqab04XCC0PpspE="),
        ("caf\u00e9", 0x01020304, "whsec_Mf0ArO0NDhoZ7i8Wgu7FfA7Nouy6QNEQiELDeT8BYtc="),
    ],
)
def test_a_release_changes_no_secret(project: str, version: int, wanted: str) -> None:
    """Receivers hold them: another value is an outage of all. Computed with the HKDF of the package `cryptography`."""
    assert whsec(secret(MASTER_KEY, project, version)) == wanted


def test_no_two_of_master_key_project_and_version_have_one_secret() -> None:
    keys = (MASTER_KEY, MASTER_KEY + " ")
    projects = ("", "shop", "shop1", "1", "\x00\x00\x00\x01shop")
    made = [secret(key, project, version) for key in keys for project in projects for version in (1, 2, 11)]
    assert not [pair for pair in combinations(made, 2) if pair[0] == pair[1]]
