"""The overview: how things stand, what needs a person, how the last hours went, and who is at work."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar, cast

import aiohttp_jinja2
import msgspec
from aiohttp import web

from libs.common.clock import Clock
from services.ingest.calls import Calls, merged, percentile_ms
from services.ingest.console.figures import (
    SCALES,
    SILENT_S,
    Concern,
    Span,
    Standing,
    begin_of,
    columns,
    concerns,
    count,
    in_flight,
    says,
    series,
    standings,
)
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import render
from services.ingest.store_calls import CallStore
from services.ingest.store_overview import OverviewStore, Waiting
from services.ingest.store_replicas import ReplicaStore

SNAPSHOT_S = 2.0
"""However many look, the tables are asked no more often."""
CHART_S: dict[Span, float] = {"1h": 5.0, "24h": 60.0, "7d": 60.0}
LIVE_PARTS = ("now", "services")
KEPT_MAX = 1_000

T = TypeVar("T")


class Recent(Generic[T]):
    """Values that were read a moment ago, by what they are about."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], tuple[float, T]] = {}

    def get(self, *key: str, age_s: float) -> T | None:
        kept = self._kept.get(key)
        return kept[1] if kept is not None and time.monotonic() - kept[0] < age_s else None

    def put(self, *key: str, value: T) -> T:
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[key] = (time.monotonic(), value)
        return value


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """`hour`: the calls that ended in the last sixty minutes, all in one."""

    at: datetime
    waiting: Waiting
    hour: Calls
    in_flight: int
    concerns: list[Concern]
    standings: list[Standing]

    @property
    def p50_ms(self) -> float | None:
        return percentile_ms(self.hour.lateness, 0.50)

    @property
    def p99_ms(self) -> float | None:
        return percentile_ms(self.hour.lateness, 0.99)


class Overview:
    def __init__(self, store: OverviewStore, calls: CallStore, replicas: ReplicaStore, clock: Clock) -> None:
        self._store = store
        self._calls = calls
        self._replicas = replicas
        self._clock = clock
        self._snapshots: Recent[Snapshot] = Recent()
        self._series: Recent[list[Calls]] = Recent()
        self._html: Recent[tuple[Snapshot, str]] = Recent()

    def pages(self) -> list[Page]:
        return [Page(method="GET", path="/", handler=self.show, role="viewer")]

    async def show(self, request: web.Request) -> web.StreamResponse:
        project = visitor_of(request).project
        wanted = request.query.get("span", "1h")
        span = cast("Span", wanted if wanted in SCALES else "1h")
        snapshot, steps = await self.snapshot(project), await self.steps(project, span)
        return await render(
            request,
            "overview.html",
            now=snapshot,
            count=count,
            silent_s=SILENT_S,
            says=says,
            span=span,
            scales=SCALES,
            steps=steps,
            series=msgspec.json.encode(columns(steps)).decode(),
            percentile_ms=percentile_ms,
        )

    async def pushed(self, app: web.Application, project: str) -> str:
        """What `Live` sends to each tab that shows the overview: rendered once for all of them."""
        snapshot = await self.snapshot(project)
        of, html = self._html.get(project, age_s=SNAPSHOT_S) or (None, "")
        if of is not snapshot:
            environment, values = aiohttp_jinja2.get_env(app), {**_shown(snapshot), "is_pushed": True}
            html = "".join(
                environment.get_template(f"parts/overview_{part}.html").render(values) for part in LIVE_PARTS
            )
            self._html.put(project, value=(snapshot, html))
        return html

    async def snapshot(self, project: str) -> Snapshot:
        """At most `SNAPSHOT_S` old. Raises: PostgresAway."""
        kept = self._snapshots.get(project, age_s=SNAPSHOT_S)
        return kept or self._snapshots.put(project, value=await self._look(project))

    async def steps(self, project: str, span: Span) -> list[Calls]:
        """The series of a chart. Raises: PostgresAway."""
        kept = self._series.get(project, span, age_s=CHART_S[span])
        if kept is not None:
            return kept
        now, scale = self._clock.now(), SCALES[span]
        read = self._calls.hours if span == "7d" else self._calls.minutes
        return self._series.put(project, span, value=series(await read(project, begin_of(scale, now)), scale, now))

    async def _look(self, project: str) -> Snapshot:
        now, store = self._clock.now(), self._store
        # One after the other, each for some milliseconds: the projection and the API need connections too.
        waiting = await store.waiting(project)
        breakers, paused = await store.open_breakers(project), await store.paused(project)
        replicas = await self._replicas.all()
        minutes = await self._calls.minutes(project, begin_of(SCALES["1h"], now))
        return Snapshot(
            at=now,
            waiting=waiting,
            hour=merged(minutes, now),
            in_flight=in_flight(replicas),
            concerns=concerns(waiting, breakers, paused, replicas, now),
            standings=standings(replicas),
        )


def _shown(snapshot: Snapshot) -> dict[str, object]:
    return {"now": snapshot, "count": count, "silent_s": SILENT_S, "says": says}
