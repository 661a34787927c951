"""The hosts that are called: how they fare, what keeps calls back and why; to pause and to limit them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from aiohttp import web

from libs.common.clock import Clock
from services.ingest.calls import Calls, merged
from services.ingest.console.forms import back, field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.hour_bars import GAP, HEIGHT, HOURS, WIDTH, hour_bars
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.standing import WORDS, Standing, p95_ms, ratio_text, worst_first
from services.ingest.console.target_redrive import (
    BY_USER,
    SINCE,
    changer,
    failed_tasks,
    host_in,
    search_link,
    target_path,
)
from services.ingest.console.visible import one_line
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.store_calls import CallStore
from services.ingest.store_control import RULES_MAX, ControlStore, HeldRule
from services.ingest.store_keys import KeyStore
from services.ingest.store_targets import TargetStore
from services.ingest.target_rules import Limit, TargetRules
from services.ingest.task_filter import TaskFilter

HOSTS_MAX = 250
"""Shown at once; the worst, and a filter finds the others."""


class Stores(NamedTuple):
    """What these pages read. All raise PostgresAway."""

    calls: CallStore
    control: ControlStore
    targets: TargetStore
    keys: KeyStore


class TargetPages:
    def __init__(self, stores: Stores, rules: TargetRules, clock: Clock) -> None:
        self._stores = stores
        self._rules = rules
        self._clock = clock

    def pages(self) -> list[Page]:
        of_host = "/targets/{host}"
        return [
            Page(method="GET", path="/targets", handler=self.index, role="viewer"),
            Page(method="GET", path=of_host, handler=self.show, role="viewer"),
            Page(method="POST", path=f"{of_host}/pause", handler=self.pause, role="operator", action="target.pause"),
            Page(method="POST", path=f"{of_host}/resume", handler=self.resume, role="operator", action="target.resume"),
            Page(method="POST", path=f"{of_host}/limit", handler=self.limit, role="admin", action="target.limit"),
        ]

    async def index(self, request: web.Request) -> web.StreamResponse:
        project, wanted = visitor_of(request).project, one_line(request.query.get("host", "")).strip().lower()
        standings = await self._standings(project, wanted)
        return await render(
            request,
            "targets.html",
            wanted=wanted,
            standings=standings[:HOSTS_MAX],
            more=max(0, len(standings) - HOSTS_MAX),
            path_of=target_path,
            name_of=_brief_name,
            **_WORDS,
        )

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await self._page(request, host_in(request))

    async def pause(self, request: web.Request) -> web.StreamResponse:
        told = "Paused: no call to {} begins after the next second, until somebody resumes it."
        return await self._pause(request, told, is_paused=True)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        return await self._pause(request, "Resumed: {} is called again.", is_paused=False)

    async def limit(self, request: web.Request) -> web.StreamResponse:
        host = host_in(request)
        typed = {name: one_line(field_of(request, name)) for name in ("per_s", "burst")}
        audit_note(request, host, **typed)
        try:
            limit = _limit(typed)
            _held, is_in_force = await self._rules.limit(visitor_of(request).project, changer(request), host, limit)
        except Problem as problem:
            if not problem.errors:
                raise
            faults = {each.pointer.strip("/"): each.detail for each in problem.errors}
            return await self._page(request, host, status=422, typed=typed, faults=faults)
        said = f"{limit.per_s:g} calls a second" if limit.per_s is not None else "no limit"
        return await back(request, target_path(host), told=_told(f"Set: {said} to {host}.", is_in_force))

    async def _pause(self, request: web.Request, told: str, *, is_paused: bool) -> web.StreamResponse:
        host = host_in(request)
        audit_note(request, host)
        _held, is_in_force = await self._rules.pause(
            visitor_of(request).project, changer(request), host, is_paused=is_paused
        )
        return await back(request, target_path(host), told=_told(told.format(host), is_in_force))

    async def _page(
        self,
        request: web.Request,
        host: str,
        *,
        status: int = 200,
        typed: Mapping[str, str] | None = None,
        faults: Mapping[str, str] | None = None,
    ) -> web.Response:
        project, now = visitor_of(request).project, self._clock.now()
        held = await self._stores.control.target(project, host)
        hours = await self._stores.calls.host(project, host, _day(now))
        is_ours = bool(hours) or held is not None
        breakers = await self._stores.targets.open_breakers([host]) if is_ours else {}
        by_span = {since: _since(hours, since) for since in (_hour(now), _day(now))}
        standing = Standing(
            host=host,
            hour=by_span[_hour(now)],
            day=by_span[_day(now)],
            rule=held,
            breakers=breakers.get(host, ()),
            now=now,
        )
        return await render(
            request,
            "target.html",
            status=status,
            standing=standing,
            host=host,
            host_path=target_path(host),
            by=None if held is None else await self._name_of(project, held.changed_by),
            bars=hour_bars(hours, now),
            typed=typed or _typed(held),
            faults={"per_s": "", "burst": "", **(faults or {})},
            waiting=search_link(TaskFilter(status=("due", "retrying"), host=host)),
            failed=search_link(failed_tasks(host, None)),
            since=SINCE,
            **_WORDS,
        )

    async def _standings(self, project: str, wanted: str) -> list[Standing]:
        now = self._clock.now()
        day = await self._stores.calls.hosts(project, _day(now))
        hour = await self._stores.calls.hosts(project, _hour(now))
        rules = {held.rule.host: held for held in await self._stores.control.targets(project, "", RULES_MAX)}
        hosts = [host for host in {*day, *(host for host in rules if _says(rules[host]))} if wanted in host]
        breakers = await self._stores.targets.open_breakers(hosts)
        return worst_first(
            Standing(
                host=host,
                hour=hour.get(host),
                day=day.get(host),
                rule=rules.get(host),
                breakers=breakers.get(host, ()),
                now=now,
            )
            for host in hosts
        )

    async def _name_of(self, project: str, by: str) -> str:
        """Who changed a rule: a user of the console, or a key by its name."""
        if by.startswith(BY_USER):
            return by.removeprefix(BY_USER)
        try:
            key = await self._stores.keys.show(project, UUID(by))
        except ValueError:
            return f"the {by} key"
        return f"the key {by}" if key is None else f"the key {key.name}"


def _brief_name(by: str) -> str:
    """Without a look at the keys: there may be hundreds of rules."""
    return by.removeprefix(BY_USER) if by.startswith(BY_USER) else "a key"


def _hour(now: datetime) -> datetime:
    """Calls are counted by the hour: the one that has begun, and the one before."""
    return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


def _day(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)


def _since(hours: list[Calls], since: datetime) -> Calls | None:
    wanted = [calls for calls in hours if calls.at >= since]
    return merged(wanted, since) if wanted else None


def _says(held: HeldRule) -> bool:
    return held.rule.is_paused or held.rule.per_s is not None


def _typed(held: HeldRule | None) -> Mapping[str, str]:
    if held is None or held.rule.per_s is None:
        return {"per_s": "", "burst": ""}
    return {"per_s": f"{held.rule.per_s:g}", "burst": str(held.rule.burst)}


def _limit(typed: Mapping[str, str]) -> Limit:
    """Raises: Problem (422)."""
    per_s, burst = typed["per_s"], typed["burst"]
    errors = []
    if per_s and not _is_number(per_s):
        errors.append(FieldError("/per_s", "wrong_type", "is no number; write calls a second, such as 5 or 0.5"))
    if burst and not (burst.isascii() and burst.isdigit() and len(burst) < 10):
        errors.append(FieldError("/burst", "wrong_type", "is no whole number"))
    if errors:
        raise invalid(errors)
    return Limit(per_s=float(per_s) if per_s else None, burst=int(burst) if burst else 1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _told(told: str, is_in_force: bool) -> str:
    return told if is_in_force else f"{told} It is in force within 30 seconds."


_WORDS: Mapping[str, Any] = {
    "words": WORDS,
    "ratio_text": ratio_text,
    "p95_ms": p95_ms,
    "bar_width": WIDTH,
    "bars_height": HEIGHT,
    "bars_width": HOURS * (WIDTH + GAP) - GAP,
}
