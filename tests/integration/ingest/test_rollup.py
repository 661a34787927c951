"""Calls by minute, hour and host in a real PostgreSQL: each is counted once, whatever comes again or side by side."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from libs.common.clock import SystemClock
from libs.common.contracts import AttemptFinished, Event
from libs.common.postgres import Postgres
from services.ingest.calls import percentile_ms
from services.ingest.history import History
from services.ingest.maintenance import MINUTES_KEPT_DAYS, Maintenance
from services.ingest.store import Store
from services.ingest.store_calls import CallStore

NOON = SystemClock().now().replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


def attempted(
    at: datetime = NOON, outcome: str = "succeeded", *, id_: UUID | None = None, late_ms: int = 4, **others: Any
) -> AttemptFinished:
    told: dict[str, Any] = {"project": "shop", "attempt": 1, "duration_ms": 20, "host": "api.example.com"} | others
    return AttemptFinished(
        id=id_ or uuid4(), generation=1, hop=1, due_at=at - timedelta(milliseconds=late_ms), started_at=at,
        outcome=outcome, **told,  # type: ignore[arg-type]
    )  # fmt: skip


async def minutes(postgres: Postgres, project: str = "shop") -> list[tuple[datetime, int, int, int]]:
    found = await CallStore(postgres).minutes(project, NOON - timedelta(days=1))
    return [(each.at, each.succeeded, each.failed, each.retried) for each in found]


async def test_calls_are_counted_by_the_minute_in_which_they_ended(history: History, postgres: Postgres) -> None:
    late = NOON + timedelta(seconds=59, milliseconds=990)
    await history.handle([attempted(), attempted(outcome="failed"), attempted(late), attempted(NOON, "retry")])
    await history.handle([attempted(outcome="retry", project="other")])
    assert await minutes(postgres) == [(NOON, 1, 1, 1), (NOON + timedelta(minutes=1), 1, 0, 0)]
    assert await minutes(postgres, "other") == [(NOON, 0, 0, 1)]
    [hour] = await CallStore(postgres).hours("shop", NOON)
    assert (hour.at, hour.made) == (NOON, 4)


async def test_hosts_are_counted_by_the_hour_and_one_that_was_not_told_is_none(
    history: History, postgres: Postgres
) -> None:
    others = [attempted(host="b.example.com:81", duration_ms=500), attempted(host="")]
    await history.handle([attempted(), attempted(NOON + timedelta(hours=1), "failed"), *others])
    calls = CallStore(postgres)
    hosts = await calls.hosts("shop", NOON)
    assert {host: (each.made, each.success_ratio) for host, each in hosts.items()} == {
        "api.example.com": (2, 0.5),
        "b.example.com:81": (1, 1.0),
    }
    p95 = percentile_ms(hosts["b.example.com:81"].duration, 0.95)
    assert p95 is not None
    assert abs(p95 - 500) <= 45
    assert [each.at for each in await calls.host("shop", "api.example.com", NOON)] == [
        NOON,
        NOON + timedelta(hours=1),
    ]


async def test_histograms_of_many_batches_add_up(history: History, postgres: Postgres) -> None:
    for duration_ms in (3, 700, 40):
        retry = attempted(late_ms=9_000, attempt=2, duration_ms=duration_ms)
        await history.handle([attempted(late_ms=duration_ms, duration_ms=duration_ms), retry])
    [minute] = await CallStore(postgres).minutes("shop", NOON)
    assert (sum(minute.lateness), sum(minute.duration)) == (3, 6), "the lateness of first attempts, the time of all"
    for histogram in (minute.lateness, minute.duration):
        median, longest = percentile_ms(histogram, 0.5), percentile_ms(histogram, 1)
        assert median is not None
        assert longest is not None
        assert abs(median - 40) <= 3.6
        assert abs(longest - 700) <= 63


async def test_what_is_redelivered_is_counted_once(history: History, postgres: Postgres) -> None:
    first, second, third = attempted(), attempted(outcome="failed"), attempted(outcome="retry")
    await history.handle([first, second, first])
    await history.handle([second, third, first])
    assert await minutes(postgres) == [(NOON, 1, 1, 1)]


async def test_two_replicas_with_the_same_events_count_them_once(postgres: Postgres, maintenance: Maintenance) -> None:
    outcomes = ("succeeded", "failed", "retry")
    # In both orders of hosts and minutes: whoever locks rows as they come meets the other.
    events: list[Event] = [
        attempted(NOON + timedelta(minutes=number % 7), outcomes[number % 3], host=f"{number % 11}.example.com")
        for number in range(420)
    ]

    async def replica(order: list[Event]) -> None:
        history = History(Store(postgres), maintenance, SystemClock())
        for first in range(0, len(order), 60):
            await history.handle(order[first : first + 60])

    await asyncio.gather(*(replica(order) for order in (events, events[::-1], events[210:] + events[:210], events)))
    found = await minutes(postgres)
    assert [sum(counts[1:]) for counts in found] == [60] * 7
    hosts = await CallStore(postgres).hosts("shop", NOON)
    assert sum(each.made for each in hosts.values()) == 420
    assert sum(each.failed for each in hosts.values()) == 140


async def test_what_is_refused_is_not_counted(history: History, postgres: Postgres) -> None:
    ancient = attempted(NOON - timedelta(days=400))
    await history.handle([ancient, attempted()])
    assert [made for _at, made, *_rest in await minutes(postgres)] == [1]


async def test_names_with_what_postgres_refuses_are_counted_too(history: History, postgres: Postgres) -> None:
    await history.handle([attempted(host="a\0b"), attempted(host="x" * 9_000)])
    hosts = await CallStore(postgres).hosts("shop", NOON)
    assert [(host[:3], len(host)) for host in sorted(hosts)] == [("a\N{REPLACEMENT CHARACTER}b", 3), ("xxx", 253)]


async def test_minutes_are_forgotten_after_days_and_hours_with_the_history(
    history: History, postgres: Postgres, maintenance: Maintenance
) -> None:
    now = SystemClock().now().replace(second=30)  # a call counts in the minute in which it ends
    old, older = now - timedelta(days=MINUTES_KEPT_DAYS, hours=2), now - timedelta(days=29)
    await history.handle([attempted(now), attempted(old), attempted(older)])
    async with postgres.acquire() as connection:
        await connection.execute("UPDATE calls SET at = at - interval '2 days' WHERE at <= $1", older)
    await maintenance.one_pass(asyncio.Event())
    calls = CallStore(postgres)
    assert [each.at for each in await calls.minutes("shop", older)] == [now.replace(second=0, microsecond=0)]
    hours = [each.at.astimezone(UTC) for each in await calls.hours("shop", older - timedelta(days=9))]
    assert hours == [each.replace(minute=0, second=0, microsecond=0) for each in (old, now)]
