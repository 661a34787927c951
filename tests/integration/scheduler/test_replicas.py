"""How schedulers divide the horizon: nothing stays unloaded, whoever comes, goes or freezes."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from yarl import URL

from libs.common.clock import SystemClock
from libs.common.contracts import CreateTask
from libs.common.postgres import PostgresAway
from services.scheduler import replicas as replicas_module
from services.scheduler.alarm import Alarm
from services.scheduler.replicas import Replicas, Share
from services.scheduler.store import FIRE_ROWS_MAX, SHARDS, Store, shard_of
from services.scheduler.store_replicas import GONE_AFTER, ReplicaStore
from tests.integration.scheduler.rig import (
    SECOND,
    FakePublisher,
    Proxy,
    Tables,
    a_firing,
    a_pool,
    a_row,
    a_task,
    an_acceptor,
    until,
)
from tests.integration.scheduler.test_service import Broker, House, broker, house

__all__ = ["broker", "house"]  # fixtures


@dataclass
class Member:
    """One replica's part in the division."""

    store: ReplicaStore
    name: str = "one"
    shares: list[Share] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replicas = Replicas(self.store, self.name, self.shares.append)

    async def beats(self) -> None:
        await self.replicas.beat()

    @property
    def share(self) -> Share:
        return self.shares[-1]

    @property
    def shards(self) -> set[int]:
        return {shard for shard in range(SHARDS) if shard % self.share.parts == self.share.part}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        run = asyncio.create_task(self.replicas.run(stopping))
        try:
            yield
        finally:
            stopping.set()
            await asyncio.wait_for(run, 10)


@pytest.fixture
async def members(migrated_postgres_url: str) -> AsyncIterator[list[Member]]:
    async with a_pool(migrated_postgres_url) as postgres:
        store = ReplicaStore(postgres)
        yield [Member(store, name) for name in ("one", "two", "three")]


async def seen_s_ago(tables: Tables, name: str, seconds: float) -> None:
    """As if it had not beaten for so long."""
    await tables.connection.execute(
        "UPDATE scheduler.replica SET seen_at = clock_timestamp() - $1::interval WHERE name = $2",
        seconds * SECOND,
        name,
    )


# --- the division


async def test_one_alone_loads_everything(members: list[Member]) -> None:
    one, *_ = members
    await one.replicas.join()
    assert one.shares == [Share(0, 1)]
    assert len(one.shards) == SHARDS == 1024


@pytest.mark.parametrize("count", [2, 3])
async def test_all_shards_are_shared_without_overlap(members: list[Member], count: int) -> None:
    for _ in range(2):
        for member in members[:count]:
            await member.beats()
    shards = [shard for member in members[:count] for shard in member.shards]
    assert sorted(shards) == list(range(SHARDS))
    sizes = [len(member.shards) for member in members[:count]]
    assert max(sizes) - min(sizes) <= 1


async def test_a_beat_that_meets_the_same_replicas_loads_nothing_anew(members: list[Member]) -> None:
    one, two, _ = members
    for _ in range(5):
        await one.beats()
        await two.beats()
    assert one.shares == [Share(0, 1), Share(0, 2)]
    assert two.shares == [Share(1, 2)]


async def test_one_that_stops_beating_is_dropped_after_three_seconds(members: list[Member], tables: Tables) -> None:
    one, two, _ = members
    for member in (one, two, one):
        await member.beats()
    await seen_s_ago(tables, "two", GONE_AFTER.total_seconds() - 1)
    await one.beats()
    assert one.share == Share(0, 2)
    await seen_s_ago(tables, "two", GONE_AFTER.total_seconds() + 0.1)
    await one.beats()
    assert one.share == Share(0, 1)


async def test_one_that_comes_back_from_a_freeze_gets_its_part_again(members: list[Member], tables: Tables) -> None:
    one, two, _ = members
    for member in (one, two, one):
        await member.beats()
    await seen_s_ago(tables, "two", 8)
    await one.beats()
    await two.beats()
    await one.beats()
    assert [one.share, two.share] == [Share(0, 2), Share(1, 2)]


async def test_one_that_another_has_forgotten_beats_on(members: list[Member], tables: Tables) -> None:
    one, two, _ = members
    await two.beats()
    await seen_s_ago(tables, "two", 61)
    await one.beats()
    assert await tables.connection.fetchval("SELECT count(*) FROM scheduler.replica") == 1
    await two.beats()
    await one.beats()
    assert {one.share.parts, two.share.parts} == {2}


async def test_who_leaves_is_gone_at_the_next_beat_of_the_others(members: list[Member]) -> None:
    one, two, _ = members
    await one.beats()
    async with two.running():
        await two.beats()
        await one.beats()
        assert one.share == Share(0, 2)
    await one.beats()
    assert one.share == Share(0, 1)


async def test_a_postgres_that_is_away_changes_no_share_and_ends_nobody(
    members: list[Member], migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas_module, "BEAT_S", 0.02)
    url = URL(migrated_postgres_url)
    assert url.host
    assert url.port
    proxy = Proxy(url.host, url.port)
    await proxy.heal()
    async with a_pool(str(url.with_host("127.0.0.1").with_port(proxy.port))) as postgres:
        far = Member(_CountsLosses(ReplicaStore(postgres)), "far")
        one = members[0]
        await one.beats()
        await far.beats()
        async with far.running():
            await proxy.cut()
            store = far.store
            assert isinstance(store, _CountsLosses)
            await until("three beats to be lost", lambda: store.losses >= 3)
            assert far.shares == [Share(1, 2)]
            await proxy.heal()
            await until("a beat to arrive", lambda: store.beats_since_loss)
        assert far.shares[0] == Share(1, 2)
    await proxy.cut()


class _CountsLosses(ReplicaStore):
    def __init__(self, real: ReplicaStore) -> None:
        self._real, self.losses, self.beats_since_loss = real, 0, 0

    async def seen(self, id_: UUID, name: str) -> Any:
        try:
            seen = await self._real.seen(id_, name)
        except PostgresAway:
            self.losses += 1
            self.beats_since_loss = 0
            raise
        self.beats_since_loss += 1
        return seen

    async def leave(self, id_: UUID) -> None:
        with suppress(PostgresAway):
            await self._real.leave(id_)


# --- what a share loads


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
async def test_the_parts_together_load_each_task_once_and_by_its_shard(store: Store, parts: int) -> None:
    tasks = [a_task(20) for _ in range(200)]
    await store.accept([a_row(task) for task in tasks])
    now = await store.now()
    loaded: list[UUID] = []
    for part in range(parts):
        pages = store.coming(now, now + 60 * SECOND, 1000, part=part, parts=parts)
        mine = [id_ async for page in pages for id_, _ in page]
        assert all(shard_of(id_) % parts == part for id_ in mine)
        loaded += mine
    assert sorted(loaded) == sorted(task.id for task in tasks)


@asynccontextmanager
async def an_alarm(store: Store, publisher: FakePublisher) -> AsyncIterator[Alarm]:
    alarm = Alarm(store, a_firing(store, publisher), SystemClock(), horizon_s=60)
    stopping = asyncio.Event()
    alarm.take(Share(1, 2))
    run = asyncio.create_task(alarm.run(stopping))
    try:
        yield alarm
    finally:
        stopping.set()
        await asyncio.wait_for(run, 10)


async def test_what_a_replica_accepts_it_fires_whatever_the_shard(store: Store, tables: Tables) -> None:
    publisher = FakePublisher()
    async with an_alarm(store, publisher) as alarm:
        due_at = await tables.now() + SECOND
        tasks = [a_task(due_at=due_at) for _ in range(20)]
        assert {shard_of(task.id) % 2 for task in tasks} == {0, 1}
        await an_acceptor(store, publisher, alarm.hold).creates(  # type: ignore[arg-type]  # a Hold
            [CreateTask(task=task) for task in tasks]
        )
        await until("all to be fired", lambda: _all_gone(tables))
    assert await tables.now() < due_at + 5 * SECOND


async def test_a_new_share_loads_what_the_one_before_had_accepted_and_held(store: Store, tables: Tables) -> None:
    """Who accepted them is gone; the rows of both parts fall due, and some have a second ago."""
    publisher = FakePublisher()
    async with an_alarm(store, publisher) as alarm:
        await until("the first load", lambda: alarm._loaded_until > alarm.now())
        now = await tables.now()
        tasks = [a_task(due_at=now + n / 5 * SECOND - SECOND) for n in range(10)]
        await store.accept([a_row(task) for task in tasks])
        alarm.take(Share(0, 1))
        await until("all to be fired", lambda: _all_gone(tables))


async def _all_gone(tables: Tables) -> bool:
    return await tables.waiting() == 0


# --- two processes, one frozen


async def test_one_of_two_frozen_for_six_seconds_loses_nothing_and_doubles_at_most_a_batch(
    house: House, broker: Broker, tables: Tables
) -> None:
    frozen, other = await house.start(), await house.start()
    for scheduler in (frozen, other):
        await scheduler.is_up()
        await scheduler.says('"replicas":2')
    now = await tables.now()
    tasks = [a_task(due_at=now + (2 + n % 80 / 10) * SECOND) for n in range(800)]
    await broker.creates(*tasks)
    await broker.hears_of(*tasks)
    await until("some to be fired", lambda: len(broker.due) > 50, 20)
    frozen.running.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(6)
    finally:
        frozen.running.send_signal(signal.SIGCONT)
    await broker.gets(*tasks)
    await until("all tombstones", lambda: _all_gone(tables))
    again = Counter({id_: times - 1 for id_, times in broker.fired.items() if times > 1})
    late = max(due.emitted_at - due.due_at for due in broker.due)
    print(f"again {again.total()}, latest by {late}")
    assert set(broker.fired) == {task.id for task in tasks}
    assert again.total() <= FIRE_ROWS_MAX
    assert all(due.emitted_at >= due.due_at for due in broker.due)
    assert late < 7 * SECOND
    assert [await scheduler.terminate() for scheduler in (frozen, other)] == [0, 0]
