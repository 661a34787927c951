"""Who is asking: the project and the scopes of an API key.

For now there is one key, from the settings; its project is `default`, and it may do everything. Only digests are
compared, in constant time, so neither length nor prefix of the key leaks.
"""

import hashlib
import hmac
from typing import Literal, NamedTuple, get_args

from aiohttp import web

from services.ingest.problems import unauthorized

Scope = Literal["tasks:write", "tasks:read", "schedules:write", "schedules:read", "admin"]
ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

BOOTSTRAP_PROJECT = "default"
BOOTSTRAP_KEY_ID = "bootstrap"


class Caller(NamedTuple):
    """Whose request it is. No scope implies another."""

    project: str
    key_id: str
    scopes: frozenset[Scope]


CALLER = web.RequestKey("caller", Caller)


class Keys:
    """The keys that this process knows."""

    def __init__(self, bootstrap_key: str) -> None:
        self._digest = _digest(bootstrap_key)
        self._bootstrap = Caller(BOOTSTRAP_PROJECT, BOOTSTRAP_KEY_ID, ALL_SCOPES)

    async def caller(self, authorization: str | None) -> Caller:
        """Who sent this Authorization header. Raises: Problem (401)."""
        scheme, _, key = (authorization or "").partition(" ")
        is_known = hmac.compare_digest(_digest(key.strip()), self._digest)
        if scheme.lower() != "bearer" or not is_known:
            raise unauthorized()
        return self._bootstrap


def _digest(key: str) -> bytes:
    # A header's odd bytes arrive as lone surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
