"""Which headers carry secrets, by their names; their values are for nobody's eyes. Pure."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from libs.common.contracts import Call

# "key" and "auth" catch x-api-key, authorization, x-auth-token; better one too many.
_SECRET = re.compile(r"auth|cookie|secret|token|signature|key|passw|credential|session", re.IGNORECASE)
_CHALLENGES = frozenset({"www-authenticate", "proxy-authenticate", "authentication-info"})
"""Answers that say how to log in, which a person needs who looks for a 401."""


class HeaderLine(NamedTuple):
    """`value` is None of a secret one."""

    name: str
    value: str | None


def is_secret(name: str) -> bool:
    return name.lower() not in _CHALLENGES and _SECRET.search(name) is not None


def header_lines(headers: Iterable[tuple[str, str]]) -> list[HeaderLine]:
    return [HeaderLine(name, None if is_secret(name) else value) for name, value in headers]


def without_secrets(call: Call) -> Call:
    """The call with placeholders for the secret values, to be shown or copied."""
    headers = tuple((name, placeholder(name) if is_secret(name) else value) for name, value in call.headers)
    return msgspec.structs.replace(call, headers=headers)


def placeholder(name: str) -> str:
    return f"<your {name}>"
