"""Makes, changes and ends API keys: for the door and for the command alike."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

import msgspec
import structlog

from libs.common.clock import Clock
from libs.common.ids import new_id
from libs.common.postgres import PostgresAway
from services.ingest.auth import Scope
from services.ingest.creation import this_millisecond
from services.ingest.key_text import digest, new_key
from services.ingest.problems import RETRY_AFTER_S, FieldError, Problem, forbidden, invalid, not_found
from services.ingest.store_keys import KEYS_MAX, StoredKey
from services.ingest.times import BadTime, parse_moment

NAME_CHARS_MAX = 100
PER_S_MIN, PER_S_MAX = 0.001, 10_000.0
BURST_MAX = 100_000
OVERLAP_S = 86_400.0
OVERLAP_S_MAX = 30 * 86_400.0

PROJECT = re.compile(r"[a-z0-9_-]{1,64}")

log = structlog.get_logger(__name__)


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as somebody asks for it. `project`: another than one's own, which only the bootstrap key may name.

    `per_s` requests a second, after `burst` at once (a second's worth unless given); without it there is no limit.
    """

    name: str
    scopes: tuple[Scope, ...]
    expires_at: str | int | float | None = None
    per_s: float | None = None
    burst: int | None = None
    project: str | None = None


class KeepsKeys(Protocol):
    """The part of `KeyStore` that this needs. All raise PostgresAway."""

    async def show(self, project: str, id_: UUID) -> StoredKey | None: ...

    async def page(self, project: str, after: UUID | None, limit: int) -> list[StoredKey]: ...

    async def add(self, key: StoredKey) -> bool: ...

    async def revoke(self, project: str, id_: UUID, now: datetime) -> StoredKey | None: ...

    async def replace(self, old: UUID, new: StoredKey, until: datetime) -> str: ...


class Keyring:
    """`may` is what the asker has the right to: no key gives more than it has. All raise Problem."""

    def __init__(self, store: KeepsKeys, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(self, project: str, new: NewKey, may: frozenset[Scope]) -> tuple[str, StoredKey]:
        """The key's text, which is kept nowhere, and the rest of it."""
        now = this_millisecond(self._clock.now())
        errors = list(_errors(new, now))
        if errors:
            raise invalid(errors)
        _check_rights(new.scopes, may)
        text = new_key()
        burst = None if new.per_s is None else new.burst or max(1, math.ceil(new.per_s))
        expires_at = None if new.expires_at is None else parse_moment(new.expires_at, now)
        key = StoredKey(new_id(), project, new.name, digest(text), new.scopes, new.per_s, burst, now, expires_at)
        with _told_when_unknown():
            if not await self._store.add(key):
                raise _too_many()
        log.info("key.created", key_id=str(key.id), project=project, scopes=key.scopes)
        return text, key

    async def rotate(self, project: str, id_: UUID, overlap_s: float, may: frozenset[Scope]) -> tuple[str, StoredKey]:
        """A new key like the old one, which works for `overlap_s` more."""
        if not 0 <= overlap_s <= OVERLAP_S_MAX:
            raise invalid([FieldError("/overlap_s", "out_of_range", f"give 0 to {OVERLAP_S_MAX:.0f}, 30 days")])
        now = this_millisecond(self._clock.now())
        old = await self.show(project, id_)
        _check_rights(old.scopes, may)
        _check_is_last(old, now)
        text = new_key()
        new = old._replace(id=new_id(), digest=digest(text), created_at=now, last_used_at=None)
        with _told_when_unknown():
            done = await self._store.replace(id_, new, now + timedelta(seconds=overlap_s))
        if done == "full":
            raise _too_many()
        if done == "ended":
            _check_is_last(await self.show(project, id_), now)
            raise _ended()
        log.info("key.rotated", key_id=str(id_), new_key_id=str(new.id), project=project, overlap_s=overlap_s)
        return text, new

    async def revoke(self, project: str, id_: UUID) -> StoredKey:
        """As it is then; a second time changes nothing."""
        with _told_when_unknown():
            key = await self._store.revoke(project, id_, this_millisecond(self._clock.now()))
        if key is None:
            raise _unknown(id_)
        log.info("key.revoked", key_id=str(id_), project=project)
        return key

    async def page(self, project: str, after: UUID | None, limit: int) -> list[StoredKey]:
        """Newest first."""
        with _told_when_unknown():
            return await self._store.page(project, after, limit)

    async def show(self, project: str, id_: UUID) -> StoredKey:
        with _told_when_unknown():
            key = await self._store.show(project, id_)
        if key is None:
            raise _unknown(id_)
        return key


def project_error(project: str, pointer: str = "/project") -> FieldError | None:
    if PROJECT.fullmatch(project):
        return None
    return FieldError(pointer, "bad_name", "is no name of a project; write 1 to 64 of a-z, 0-9, - and _")


def status_of(key: StoredKey, now: datetime) -> Literal["active", "expired", "revoked"]:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "active"


def _errors(new: NewKey, now: datetime) -> Iterator[FieldError]:
    if not 1 <= len(new.name) <= NAME_CHARS_MAX or not new.name.isprintable():
        yield FieldError("/name", "bad_value", f"write 1 to {NAME_CHARS_MAX} characters, without line breaks")
    if not new.scopes or len(set(new.scopes)) < len(new.scopes):
        yield FieldError("/scopes", "bad_value", "name at least one scope, and each once")
    if new.project is not None and (error := project_error(new.project)):
        yield error
    yield from _expiry_errors(new, now)
    yield from _limit_errors(new)


def _expiry_errors(new: NewKey, now: datetime) -> Iterator[FieldError]:
    if new.expires_at is None:
        return
    try:
        if parse_moment(new.expires_at, now) <= now:
            yield FieldError("/expires_at", "in_the_past", "has passed; give a later time, or leave it out")
    except BadTime as error:
        yield FieldError("/expires_at", error.code, error.detail)


def _limit_errors(new: NewKey) -> Iterator[FieldError]:
    if new.per_s is None:
        if new.burst is not None:
            yield FieldError("/burst", "no_limit", "means nothing without per_s; add that, or leave burst out")
        return
    if not PER_S_MIN <= new.per_s <= PER_S_MAX:
        yield FieldError("/per_s", "out_of_range", f"give {PER_S_MIN} to {PER_S_MAX:g} requests a second")
    elif new.burst is not None and not max(1, new.per_s) <= new.burst <= BURST_MAX:
        least = max(1, math.ceil(new.per_s))
        yield FieldError("/burst", "out_of_range", f"give {least} (a second's worth) to {BURST_MAX}, or leave it out")


def _check_rights(scopes: tuple[str, ...], may: frozenset[Scope]) -> None:
    for scope in scopes:
        if scope not in may:
            raise forbidden(scope)


def _check_is_last(key: StoredKey, now: datetime) -> None:
    if key.replaced_by is not None:
        raise Problem(
            409,
            "key_rotated",
            f"This key has been rotated already: its successor is {key.replaced_by}. If you did not get that one,"
            " rotate it in turn, with an overlap_s of 0.",
        )
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        raise _ended()


def _ended() -> Problem:
    return Problem(409, "key_ended", "This key is revoked or has expired. Make a new one: POST /v1/keys.")


def _unknown(id_: UUID) -> Problem:
    return not_found(f"There is no key {id_}")


def _too_many() -> Problem:
    return Problem(409, "too_many_keys", f"A project has at most {KEYS_MAX} keys that work. Revoke one first.")


@contextmanager
def _told_when_unknown() -> Iterator[None]:
    try:
        yield
    except PostgresAway as error:
        raise Problem(
            503,
            "keys_unavailable",
            "The keys cannot be read or written now. Repeat the request; a key may have been made all the same:"
            " GET /v1/keys lists it, and what you did not get should be revoked.",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        ) from error
