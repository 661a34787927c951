"""What the name of a user looks like, and a one-time link. Pure.

A link's 256 random bits need no slow hash: SHA-256 is what we keep.
"""

import hashlib
import re
import secrets
from datetime import timedelta
from typing import NamedTuple

from services.ingest.console.page import ROOT

NAME_CHARS_MAX = 64
LINK_LIVES = timedelta(hours=24)

_NAME = re.compile(rf"[a-z0-9][a-z0-9._@+-]{{0,{NAME_CHARS_MAX - 1}}}")
_TOKEN_BYTES = 32


class NewLink(NamedTuple):
    """`path` is shown once and kept nowhere; `digest` is what is stored."""

    path: str
    digest: bytes


def name_of(text: str) -> str:
    """As names are stored: whoever types their own in capitals means the same."""
    return text.strip().lower()


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def name_fault(name: str) -> str | None:
    """What is wrong with it; None when it will do."""
    if is_name(name):
        return None
    return f"is no name: write 1 to {NAME_CHARS_MAX} of a-z, 0-9 and . _ @ + -, a letter or digit first"


def new_link() -> NewLink:
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    return NewLink(f"{ROOT}/link/{token}", link_digest(token))


def link_digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
