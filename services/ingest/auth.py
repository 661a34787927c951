"""Who is asking: the project and the scopes of an API key.

    the bootstrap key (settings) -> what is known of keys -> Postgres

Once a second each replica asks Postgres which keys have changed. What it knows holds while that was confirmed at most
`FRESH_S` ago, else the key is read again: so a revoked key is refused everywhere after two seconds. Without Postgres a
known key goes on working for `UNCONFIRMED_MAX_S`; of one that is not known nobody can say, which is a 503 and no 401.
"""

import asyncio
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args
from uuid import UUID

from aiohttp import web
from prometheus_client import Counter

from libs.common.clock import Clock, SystemClock
from libs.common.coalescing import Coalescer
from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from services.ingest.key_limits import Limit, TakesLimits, within_limit
from services.ingest.key_text import digest, is_key
from services.ingest.problems import RETRY_AFTER_S, Problem, forbidden, unauthorized
from services.ingest.store_keys import StoredKey

Scope = Literal["tasks:write", "tasks:read", "schedules:write", "schedules:read", "admin"]
ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

BOOTSTRAP_PROJECT = "default"
BOOTSTRAP_KEY_ID = "bootstrap"

POLL_S = 1.0
FRESH_S = 2.0
UNCONFIRMED_MAX_S = 600.0
# A change is committed at most this long after its `changed_at`: statements end after 10 s, idle transactions after 5.
COMMIT_MAX = timedelta(seconds=30)
LOOKUP_S = 1.0
# No request waits for Postgres so long after one that did in vain, or until the next poll succeeds.
AWAY_S = 5.0
LOOKUP_KEYS_MAX = 500
KNOWN_MAX = 10_000
UNKNOWN_MAX = 10_000
UNKNOWN_S = 10.0
USED_EVERY_S = 60.0

V = TypeVar("V")

UNCONFIRMED = Counter(
    "carillon_ingest_keys_unconfirmed_total",
    "Requests let in by what was last known of their key: Postgres does not answer",
    registry=REGISTRY,
)


class Caller(NamedTuple):
    """Whose request it is. No scope implies another."""

    project: str
    key_id: str
    scopes: frozenset[Scope]
    limit: Limit | None = None


CALLER = web.RequestKey("caller", Caller)


class KnowsKeys(Protocol):
    """The part of `KeyStore` that this needs. All raise PostgresAway."""

    async def find(self, digests: Sequence[bytes]) -> list[StoredKey]: ...

    async def changed(self, since: datetime | None) -> tuple[datetime, list[StoredKey]]: ...

    async def used(self, when: dict[UUID, datetime], every: timedelta) -> None: ...


@dataclass(slots=True)
class _Known:
    """A key that has not been revoked. Moments are monotonic."""

    id: UUID
    caller: Caller
    expires_at: datetime | None
    confirmed_at: float
    used_at: float = float("-inf")


class Keys:
    """The bootstrap key and those of `store`; a worker too, which keeps up with what changes."""

    name = "keys"

    def __init__(
        self,
        bootstrap_key: str,
        store: KnowsKeys | None = None,
        limits: TakesLimits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._digest = digest(bootstrap_key)
        self._bootstrap = Caller(BOOTSTRAP_PROJECT, BOOTSTRAP_KEY_ID, ALL_SCOPES)
        self._store = store
        self._limits = limits
        self._clock = clock or SystemClock()
        self._known: dict[bytes, _Known] = {}
        self._unknown: dict[bytes, float] = {}  # and until when
        self._used: dict[UUID, datetime] = {}
        self._changed_since: datetime | None = None
        self._away_until = float("-inf")
        # The linger is never waited for: one look-up is under way, and the next one takes all that came meanwhile, so
        # however many keys somebody guesses, Postgres has one query of ours to answer.
        self._lookups = Coalescer(self._find, items_max=LOOKUP_KEYS_MAX, linger_s=LOOKUP_S)

    async def admit(self, request: web.Request, scope: Scope) -> Caller:
        """Whose request it is, who may make it. Raises: Problem: 401, 403, 429, 503."""
        caller = await self.caller(request.headers.get("Authorization"))
        if caller.limit is not None and self._limits is not None:
            await within_limit(request, self._limits, caller.key_id, caller.limit)
        if scope not in caller.scopes:
            raise forbidden(scope)
        request[CALLER] = caller
        return caller

    async def caller(self, authorization: str | None) -> Caller:
        """Who sent this Authorization header. Raises: Problem: 401, the same for every reason; 503 if nobody knows."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        given = digest(key)
        # Digests are compared, in constant time, so neither length nor prefix of the key leaks. Those of other keys
        # need no such care: whoever sees how far the digest of a guess agrees still has to find its 178 bits.
        is_bootstrap = hmac.compare_digest(given, self._digest)
        if scheme.lower() != "bearer":
            raise unauthorized()
        if is_bootstrap:
            return self._bootstrap
        known = await self._look(given) if self._store is not None and is_key(key) else None
        if known is None or _is_over(known.expires_at, self._clock.now()):
            raise unauthorized()
        self._note_use(known)
        return known.caller

    async def run(self, stopping: asyncio.Event) -> None:
        """Raises: Fatal when there is no table."""
        while not stopping.is_set():
            await self.poll()
            await pause(stopping, POLL_S)

    async def poll(self) -> None:
        """Learn what has changed, and write down which keys were used."""
        if self._store is None:
            return
        begun = self._clock.monotonic()
        try:
            now, changed = await self._store.changed(self._changed_since)
            if self._changed_since is not None:  # the first knows no more than when to go on from
                self._confirm(changed, begun)
            self._changed_since, self._away_until = now - COMMIT_MAX, begun
            used = dict(self._used)
            if used:
                await self._store.used(used, timedelta(seconds=USED_EVERY_S))
        except PostgresAway:
            return  # it is counted and logged where it is lost
        self._used = {id_: at for id_, at in self._used.items() if used.get(id_) != at}

    async def _look(self, given: bytes) -> _Known | None:
        now = self._clock.monotonic()
        known = self._known.get(given)
        if known is not None and now - known.confirmed_at <= FRESH_S:
            return known
        if self._unknown.get(given, now) > now:
            return None
        try:
            return await self._read(given)
        except (PostgresAway, TimeoutError):
            self._away_until = max(self._away_until, now + AWAY_S)
        if known is None or now - known.confirmed_at > UNCONFIRMED_MAX_S:
            raise _unavailable()
        UNCONFIRMED.inc()
        return known

    async def _read(self, given: bytes) -> _Known | None:
        if self._clock.monotonic() < self._away_until:
            raise TimeoutError  # as the one before
        async with asyncio.timeout(LOOKUP_S):
            return await self._lookups.submit(given)

    async def _find(self, digests: list[bytes]) -> list[_Known | None]:
        assert self._store is not None
        begun = self._clock.monotonic()
        for key in await self._store.find(list(set(digests))):
            self._remember(key, begun)
        for given in digests:
            if given not in self._known:
                _bounded(self._unknown, UNKNOWN_MAX)[given] = begun + UNKNOWN_S
        return [self._known.get(given) for given in digests]

    def _confirm(self, changed: Sequence[StoredKey], now: float) -> None:
        """What is known stands, but for what has `changed`."""
        for key in changed:
            if key.digest in self._known or self._unknown.pop(key.digest, None) is not None:
                self._remember(key, now)
        for known in self._known.values():
            known.confirmed_at = max(known.confirmed_at, now)

    def _remember(self, key: StoredKey, now: float) -> None:
        before = self._known.pop(key.digest, None)
        if key.revoked_at is not None:
            return
        known = _Known(key.id, caller_of_key(key), key.expires_at, now)
        if before is not None:
            known.used_at = before.used_at
        _bounded(self._known, KNOWN_MAX)[key.digest] = known

    def _note_use(self, known: _Known) -> None:
        now = self._clock.monotonic()
        if now - known.used_at >= USED_EVERY_S:
            known.used_at = now
            self._used[known.id] = self._clock.now()


def caller_of_key(key: StoredKey) -> Caller:
    # A scope that this release does not know, of a newer one, gives nothing.
    scopes = frozenset(scope for scope in ALL_SCOPES if scope in key.scopes)
    limit = Limit(key.per_s, key.burst or 1) if key.per_s else None
    return Caller(key.project, str(key.id), scopes, limit)


def _is_over(end: datetime | None, now: datetime) -> bool:
    return end is not None and end <= now


def _bounded(held: dict[bytes, V], most: int) -> dict[bytes, V]:
    """With room for one more: the oldest goes."""
    while len(held) >= most:
        del held[next(iter(held))]
    return held


def _unavailable() -> Problem:
    return Problem(
        503,
        "keys_unavailable",
        "The API key cannot be looked up now. Repeat the request.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
