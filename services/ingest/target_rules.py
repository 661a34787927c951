"""What may be set for the calls to a host, and how it is set: for the door and for the console alike."""

from typing import Protocol

import msgspec
from yarl import URL

from libs.common.clock import Clock
from libs.common.host import host_of
from services.ingest.control import SetsControl, is_confirmed
from services.ingest.creation import this_millisecond
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.store_control import RULES_MAX, Change, HeldRule

HOST_CHARS_MAX = 261  # a name of 255 and a port
PER_S_MIN, PER_S_MAX = 0.001, 100_000.0
BURST_MAX = 100_000


class Limit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`per_s` calls a second, after `burst` at once; null for no limit."""

    per_s: float | None
    burst: int = 1


class SetsRules(Protocol):
    """The part of `ControlStore` that this needs. All raise PostgresAway."""

    async def pause(self, change: Change, host: str, *, is_paused: bool) -> HeldRule | None: ...

    async def limit(self, change: Change, host: str, per_s: float | None, burst: int) -> HeldRule | None: ...


class TargetRules:
    """Each gives the rule as it stands, and whether the dispatchers have it already; else they have within 30 s.

    `by` is who wants it. All raise Problem, PostgresAway.
    """

    def __init__(self, store: SetsRules, commands: SetsControl, clock: Clock) -> None:
        self._store = store
        self._commands = commands
        self._clock = clock

    async def limit(self, project: str, by: str, host: str, limit: Limit) -> tuple[HeldRule, bool]:
        check_limit(limit)
        return await self._told(await self._store.limit(self._change(project, by), host, limit.per_s, limit.burst))

    async def pause(self, project: str, by: str, host: str, *, is_paused: bool) -> tuple[HeldRule, bool]:
        return await self._told(await self._store.pause(self._change(project, by), host, is_paused=is_paused))

    def _change(self, project: str, by: str) -> Change:
        return Change(project, by, this_millisecond(self._clock.now()))

    async def _told(self, held: HeldRule | None) -> tuple[HeldRule, bool]:
        if held is None:
            detail = f"Rules are set for {RULES_MAX} hosts of this project already, or for too many of all projects."
            raise Problem(409, "too_many_targets", f"{detail} Resume, or take the limit off, where none is needed.")
        return held, await is_confirmed(self._commands, held.rule)


def check_limit(limit: Limit) -> None:
    """Raises: Problem (422)."""
    errors = []
    if limit.per_s is not None and not PER_S_MIN <= limit.per_s <= PER_S_MAX:
        detail = f"give {PER_S_MIN} to {PER_S_MAX:g} calls a second, or null for no limit; to stop all, pause the host"
        errors.append(FieldError("/per_s", "out_of_range", detail))
    if not 1 <= limit.burst <= BURST_MAX:
        errors.append(FieldError("/burst", "out_of_range", f"give 1 to {BURST_MAX}"))
    if errors:
        raise invalid(errors)


def checked_host(text: str) -> str:
    """As the dispatcher takes it from a URL. Raises: Problem (422)."""
    if not _is_host(text):
        detail = "is no host; write host or host:port as URLs have it, such as api.example.com or [2001:db8::1]:8080"
        raise invalid([FieldError("/host", "bad_host", detail)])
    return text.lower()


def _is_host(text: str) -> bool:
    url = f"http://{text}"
    if len(text) > HOST_CHARS_MAX or not text.isprintable() or " " in text or "%" in text or "\\" in text:
        return False
    try:
        return host_of(url) == text.lower() and bool(URL(url).host)
    except ValueError:
        return False
