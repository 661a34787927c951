"""Did Carillon make this call? For receivers; needs no network.

Standard Webhooks 1.0, symmetric: HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`, the body being the bytes
as they came. Source: github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

import base64
import binascii
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from carillon.errors import VerificationError

TOLERANCE_S = 300
SECRET_BYTES_MIN = 24  # the specification's; a short key can be guessed, an empty one is everybody's

_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
_UNIX_SECONDS = re.compile(r"[0-9]{1,12}")

Pair = tuple[str | bytes, str | bytes]


class HasItems(Protocol):
    """What frameworks give: a dict, or something like one that may name a header twice."""

    def items(self) -> Iterable[tuple[str, str]]: ...


class Received(msgspec.Struct, frozen=True):
    """A call that Carillon made. `id` is the task's, the same on every attempt: ignore one that you have handled."""

    id: str
    timestamp: int


def verify(
    headers: HasItems | Iterable[Pair],
    body: bytes | bytearray | memoryview,
    secret: str | Iterable[str],
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Received:
    """Raises: VerificationError, with the reason; ValueError when `secret` is none.

    `headers` finds names in any case: what your framework has, or pairs. `body` is what came, before any parser.
    `secret` is `whsec_...`; several, in a list or with spaces between them, while one is being rotated. `now` is in
    unix seconds.
    """
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError("body must be the raw bytes of the request; what was parsed and written again has other bytes")
    keys = _keys(secret)
    id_, timestamp, given = _three(headers)
    _check_age(timestamp, tolerance_s, time.time() if now is None else now)
    signed = f"{id_}.{timestamp}.".encode() + bytes(body)
    wanted = [base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    if not _is_any_right(given, wanted):
        raise VerificationError(
            "no signature is right: another secret, or a body that is not the one that was sent, byte for byte"
        )
    return Received(id_, int(timestamp))


def _keys(secret: str | Iterable[str]) -> list[bytes]:
    texts = secret.split() if isinstance(secret, str) else [word for one in secret for word in one.split()]
    if not texts:
        raise ValueError("no secret was given: whoever runs Carillon has it, whsec_ and base64")
    return [_key(text) for text in texts]


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a secret is no base64 ({error}): write it as whsec_ and base64") from None
    if len(key) < SECRET_BYTES_MIN:
        raise ValueError(f"a secret has {len(key)} bytes, less than {SECRET_BYTES_MIN}: was it cut off?")
    return key


def _three(headers: HasItems | Iterable[Pair]) -> tuple[str, str, str]:
    """Exactly one of each: of two ids an attacker could have one checked and the other one read."""
    pairs: Iterable[Pair] = headers.items() if isinstance(headers, Mapping) or hasattr(headers, "items") else headers
    found: dict[str, str] = {}
    for name, value in pairs:
        lower = _text(name).lower()
        if lower in _HEADERS and found.setdefault(lower, _text(value)) != _text(value):
            raise VerificationError(f"the header {lower} stands twice, with two values")
    for name in _HEADERS:
        if not found.get(name):
            raise VerificationError(f"the header {name} is missing: this is no call of Carillon's, or a proxy cut it")
    return found["webhook-id"], found["webhook-timestamp"], found["webhook-signature"]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _check_age(timestamp: str, tolerance_s: float, now: float) -> None:
    if not _UNIX_SECONDS.fullmatch(timestamp):
        raise VerificationError("the header webhook-timestamp is no number of seconds")
    age_s = now - int(timestamp)
    if abs(age_s) > tolerance_s:
        which = "ago" if age_s > 0 else "ahead"
        raise VerificationError(
            f"it was signed {abs(age_s):.0f} s {which}, more than {tolerance_s:g}: a recorded call, or a wrong clock"
        )


def _is_any_right(given: str, wanted: list[bytes]) -> bool:
    texts = [text for version, _, text in (one.partition(",") for one in given.split()) if version == "v1"]
    if not texts:
        raise VerificationError("the header webhook-signature has no signature of version v1")
    # Every pair is looked at, in constant time, so that the time taken tells nothing.
    return sum(hmac.compare_digest(text.encode(), right) for text in texts for right in wanted) > 0
