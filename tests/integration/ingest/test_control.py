"""Pauses, limits and secrets' versions, from ingest's tables to dispatchers, and what happens when Redis loses them.

ingest --SetControl--> RabbitMQ --> services.dispatcher.control --> Redis --> each dispatcher's Control
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, cast
from uuid import UUID

import pytest
from aio_pika.abc import AbstractConnection
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient
from redis.asyncio import Redis

from libs.common import topology
from libs.common.asking import Asker, Replier, asked_decoder
from libs.common.clock import SystemClock
from libs.common.consumer import ItemConsumer
from libs.common.contracts import Answer, DispatcherCommand, SetControl, TargetRule
from libs.common.ids import new_id
from libs.common.intake import Intake
from libs.common.postgres import Connection, Postgres, PostgresAway, postgres_pool, until_available
from libs.common.publisher import Publisher, PublishUnknown
from libs.common.redis import redis_client
from services.dispatcher.commands import Commands as DispatcherCommands
from services.dispatcher.control import TARGETS, Control
from services.dispatcher.limiter import Limiter
from services.dispatcher.marks import Marks
from services.dispatcher.outlet import Outlet
from services.dispatcher.signature import Signer
from services.ingest import store_control
from services.ingest.auth import Keys
from services.ingest.commands import Commands
from services.ingest.control import ControlPublisher
from services.ingest.control_door import TargetDoor
from services.ingest.http import Door, build_app
from services.ingest.signing_door import SigningDoor
from services.ingest.store_control import Change, ControlStore, HeldRule, Signing
from tests.integration.rig import a_link, ready, until
from tests.unit.dispatcher.samples import a_task
from tests.unit.ingest.key_samples import NOW

KEY = "a-key-of-enough-length"
MASTER_KEY = "0123456789abcdef0123456789abcdef"
HOST = "api.example.com"
BY_SHOP = Change("shop", "bootstrap", NOW)


@pytest.fixture
def controls(postgres: Postgres) -> ControlStore:
    return ControlStore(postgres)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_client(redis_url)
    yield client
    await client.aclose()


async def paused(controls: ControlStore, host: str = HOST, *, is_paused: bool = True) -> TargetRule:
    held = await controls.pause(BY_SHOP, host, is_paused=is_paused)
    assert held is not None
    return held.rule


def a_change(rule: TargetRule) -> SetControl:
    return SetControl(command_id=rule.command_id, targets=(rule,))


async def known(redis: Redis, host: str = HOST) -> TargetRule | None:
    """What a dispatcher that starts now knows."""
    control = Control(redis)
    await control.read()
    return control.target("shop", host)


# --- the tables


async def test_a_pause_and_a_limit_are_one_rule_with_a_rising_id(controls: ControlStore) -> None:
    first = await paused(controls)
    held = await controls.limit(BY_SHOP, HOST, 2.5, 4)
    assert held == HeldRule(held.rule, NOW, "bootstrap", None) if held else None
    assert held is not None
    assert (held.rule.is_paused, held.rule.per_s, held.rule.burst) == (True, 2.5, 4)
    assert held.rule.command_id > first.command_id
    last = await paused(controls, is_paused=False)
    assert (last.is_paused, last.per_s, last.burst) == (False, 2.5, 4)
    assert await controls.target("shop", HOST) == held._replace(rule=last)
    assert await controls.target("another", HOST) is None


async def test_an_open_breaker_is_shown_while_some_dispatcher_says_so(
    controls: ControlStore, postgres: Postgres
) -> None:
    await paused(controls)
    now = SystemClock().now()

    async def said(replica: str, state: str, open_until: object) -> HeldRule:
        async with postgres.acquire() as connection:
            await connection.execute(
                "INSERT INTO target VALUES ($1, $2, $3, $4, $5) ON CONFLICT (host, replica) DO UPDATE SET state = $3",
                *(HOST, replica, state, now, open_until),
            )
        [held] = await controls.targets("shop", "", 10)
        return held

    assert (await said("dead", "open", now - timedelta(hours=1))).open_until is None
    assert (await said("one", "open", now + timedelta(seconds=5))).open_until == now + timedelta(seconds=5)
    assert (await said("two", "open", now + timedelta(seconds=9))).open_until == now + timedelta(seconds=9)
    assert (await said("two", "closed", None)).open_until == now + timedelta(seconds=5)
    assert (await said("one", "closed", None)).open_until is None


async def test_a_rotation_counts_up_and_waits_for_the_end_of_the_last(controls: ControlStore) -> None:
    assert await controls.signing("shop") == Signing()
    first_end = NOW + timedelta(seconds=60)
    rule = await controls.rotate(BY_SHOP, first_end, is_forced=False)
    assert rule is not None
    assert (rule.version, rule.previous_until) == (2, first_end)
    assert await controls.signing("shop") == Signing(2, first_end, NOW)
    assert await controls.rotate(BY_SHOP, first_end, is_forced=False) is None
    assert await controls.signing("shop") == Signing(2, first_end, NOW)
    later = Change("shop", "bootstrap", first_end)
    assert (await controls.rotate(later, first_end, is_forced=False) or rule).version == 3
    assert (await controls.rotate(BY_SHOP, first_end, is_forced=True) or rule).version == 4
    assert await controls.signing("another") == Signing()


async def test_of_two_rotations_at_once_one_is_made(controls: ControlStore) -> None:
    made = await asyncio.gather(*(controls.rotate(BY_SHOP, NOW + timedelta(days=1), is_forced=False) for _ in range(5)))
    assert [rule.version for rule in made if rule is not None] == [2]


async def test_rules_have_a_bound_but_those_there_are_may_change(
    controls: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_control, "RULES_MAX", 2)
    monkeypatch.setattr(store_control, "RULES_TOTAL_MAX", 3)
    await paused(controls, "a")
    await paused(controls, "b")
    assert await controls.pause(BY_SHOP, "c", is_paused=True) is None
    assert await controls.limit(BY_SHOP, "b", 1.0, 1) is not None
    others = Change("another", "bootstrap", NOW)
    assert await controls.pause(others, "a", is_paused=True) is not None
    assert await controls.pause(others, "b", is_paused=True) is None, "too many of all projects"


async def test_a_rule_that_says_nothing_is_forgotten_after_a_day(controls: ControlStore, redis: Redis) -> None:
    now, control = SystemClock().now(), Control(redis)
    for host, at in (("old", now - timedelta(hours=25)), ("young", now - timedelta(hours=23))):
        for is_paused in (True, False):
            held = await controls.pause(Change("shop", "x", at), host, is_paused=is_paused)
            assert held is not None
            await control.write(a_change(held.rule))
    await controls.pause(Change("shop", "x", now - timedelta(days=9)), "paused", is_paused=True)
    await controls.forget()
    whole = await controls.whole()
    assert {rule.host for rule in whole.targets} == {"young", "paused"}
    await control.write(whole)
    assert [await known(redis, host) is None for host in ("old", "young", "paused")] == [True, False, False]


# --- a whole beside changes


async def test_a_whole_that_is_late_takes_no_newer_rule_away(controls: ControlStore, redis: Redis) -> None:
    control, old = Control(redis), await paused(controls, "old.example.com")
    await control.write(a_change(old))
    whole = await controls.whole()
    changed, new = await paused(controls, "old.example.com", is_paused=False), await paused(controls)
    await control.write(a_change(new))
    await control.write(a_change(changed))
    await control.write(whole)
    assert await known(redis) == new
    assert await known(redis, "old.example.com") == changed


async def test_a_whole_takes_no_rule_away_that_a_replica_with_a_slow_clock_has_made(
    controls: ControlStore, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock would give the rule an id below those that the whole has seen."""
    control = Control(redis)
    await paused(controls, "first.example.com")
    whole = await controls.whole()
    monkeypatch.setattr(store_control, "new_id", lambda: UUID("01000000-0000-7000-8000-000000000000"))
    new = await paused(controls)
    assert new.command_id > whole.command_id
    await control.write(a_change(new))
    await control.write(whole)
    assert await known(redis) == new


async def test_a_whole_takes_no_rule_away_that_was_being_written_while_it_was_read(
    controls: ControlStore, redis: Redis
) -> None:
    """It has its id, and no commit yet."""
    control, begun, go_on = Control(redis), asyncio.Event(), asyncio.Event()
    await paused(controls, "first.example.com")

    async def write(connection: Connection, id_: UUID) -> TargetRule:
        await connection.execute(store_control._PAUSE, "shop", HOST, id_, NOW, "bootstrap", True)
        begun.set()
        await go_on.wait()
        return TargetRule(project="shop", host=HOST, command_id=id_, is_paused=True)

    writing = asyncio.create_task(controls._numbered(write))
    await begun.wait()
    whole = await controls.whole()
    go_on.set()
    new = await writing
    assert HOST not in {rule.host for rule in whole.targets}
    await control.write(a_change(new))
    await control.write(whole)
    assert await known(redis) == new


class Interrupted(Postgres):
    """Somebody else commits before each statement of a reader."""

    def __init__(self, postgres: Postgres, commit: Callable[[], Awaitable[None]]) -> None:
        self._real = postgres
        self._commit = commit

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        async with self._real.acquire() as connection:
            yield cast("Connection", self._Reader(connection, self._commit))

    class _Reader(NamedTuple):
        connection: Connection
        commit: Callable[[], Awaitable[None]]

        async def fetchval(self, query: str) -> Any:
            await self.commit()
            return await self.connection.fetchval(query)

        async def fetch(self, query: str) -> Any:
            await self.commit()
            return await self.connection.fetch(query)


async def test_a_whole_takes_no_rule_away_that_was_committed_while_it_was_read(
    controls: ControlStore, postgres: Postgres, redis: Redis
) -> None:
    control, made = Control(redis), list[TargetRule]()

    async def commit() -> None:
        made.append(await paused(controls, f"{len(made)}.example.com"))

    whole = await ControlStore(Interrupted(postgres, commit)).whole()
    assert len(made) == 3
    for rule in made:
        await control.write(a_change(rule))
    await control.write(whole)
    assert [await known(redis, rule.host) for rule in made] == made


async def test_changes_and_wholes_in_any_order_lose_no_rule(
    controls: ControlStore, redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    dice = random.Random(seed)
    # Clocks that differ by minutes from one id to the next.
    monkeypatch.setattr(
        store_control, "new_id", lambda: UUID(int=new_id().int + (dice.randrange(-300_000, 300_000) << 80))
    )
    control, is_over = Control(redis), asyncio.Event()

    async def changes(number: int) -> None:
        for step in range(8):
            host = f"{dice.randrange(6)}.example.com"
            is_paused = dice.random() < 0.5
            # Six writers wait for one row: a moment's standstill is a lock's time limit.
            rule = await until_available(partial(paused, controls, host, is_paused=is_paused))
            await asyncio.sleep(dice.random() * 0.02)
            await control.write(a_change(rule))
            found = await known(redis, host)
            assert found is not None, f"{host} is gone after change {number}.{step}"
            assert found.command_id >= rule.command_id

    async def wholes() -> None:
        while not is_over.is_set():
            whole = await controls.whole()
            await asyncio.sleep(dice.random() * 0.05)
            await control.write(whole)

    publishing = [asyncio.create_task(wholes()) for _ in range(3)]
    await asyncio.gather(*(changes(number) for number in range(6)))
    is_over.set()
    await asyncio.gather(*publishing)
    last = await controls.whole()
    await control.write(last)
    for rule in last.targets:
        assert await known(redis, rule.host) == rule


# --- who publishes


class FakePublisher:
    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.error: Exception | None = None

    async def publish(self, _route: topology.Route, item: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.published.append(item)


async def half_a_minute_passes(postgres: Postgres) -> None:
    async with postgres.acquire() as connection:
        await connection.execute("UPDATE control SET published_at = published_at - interval '26 seconds'")


async def test_one_of_the_replicas_publishes_and_each_does_at_its_start(
    controls: ControlStore, postgres: Postgres
) -> None:
    await paused(controls)
    said = FakePublisher()
    one, two = (ControlPublisher(controls, said) for _ in range(2))
    await one.publish()
    await two.publish()
    assert len(said.published) == 2
    for _ in range(5):
        await one.publish()
        await two.publish()
    assert len(said.published) == 2

    await half_a_minute_passes(postgres)
    await asyncio.gather(*(each.publish() for each in (one, two) * 3))
    assert len(said.published) == 3


async def test_what_could_not_be_published_is_at_the_next_look(controls: ControlStore, postgres: Postgres) -> None:
    await paused(controls)
    said = FakePublisher()
    publisher = ControlPublisher(controls, said)
    await publisher.publish()
    await half_a_minute_passes(postgres)
    for error in (PublishUnknown("no confirm"), PostgresAway("away"), None, None):
        said.error = error
        await publisher.publish()
    assert len(said.published) == 2


async def test_where_nothing_was_ever_set_nothing_is_published(controls: ControlStore) -> None:
    said = FakePublisher()
    await ControlPublisher(controls, said).publish()
    assert said.published == []
    assert (await controls.whole()).targets == ()


# --- the whole way


class Stack:
    """ingest's doors over HTTP, a dispatcher that takes commands, and another one that only reads."""

    def __init__(self, client: Any, publisher: Publisher, redis: Redis, store: ControlStore) -> None:
        self.client = client
        self.publisher = publisher
        self.control = Control(redis)
        self.limiter = Limiter(redis)
        self.signer = Signer(MASTER_KEY, self.control.versions)
        self.control_publisher = ControlPublisher(store, publisher)

    async def ask(self, method: str, path: str, status: int = 200, **options: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with self.client.request(method, path, headers=headers, **options) as response:
            answer: dict[str, Any] = await response.json()
            assert response.status == status, answer
            return answer


@asynccontextmanager
async def dispatching(amqp_url: str, redis: Redis) -> AsyncIterator[None]:
    link, publisher, replier, stopping = a_link(amqp_url), Publisher(), Replier(), asyncio.Event()
    intake = Intake(topology.DISPATCHER_COMMANDS, asked_decoder(DispatcherCommand), publisher, prefetch=4)
    link.join(publisher, replier, intake)
    outlet = Outlet(publisher, SystemClock(), "one")
    commands = DispatcherCommands(Control(redis), Marks(redis, "one"), outlet, replier, SystemClock())
    async with link:
        await link.up()
        taking = asyncio.create_task(ItemConsumer(intake, commands.handle, asyncio.Semaphore(4)).run(stopping))
        try:
            yield
        finally:
            stopping.set()
            await taking


@pytest.fixture
async def stack(
    amqp_url: str, redis: Redis, controls: ControlStore, aiohttp_client: AiohttpClient
) -> AsyncIterator[Stack]:
    link, publisher = a_link(amqp_url), Publisher()
    asker = Asker[Answer](Answer)  # type: ignore[arg-type]  # a union of types
    link.join(publisher, asker)
    commands, clock = Commands(asker), SystemClock()
    doors: list[Door] = [TargetDoor(controls, commands, clock), SigningDoor(controls, commands, clock, MASTER_KEY)]
    client: TestClient[Any, Any] = await aiohttp_client(build_app(doors, Keys(KEY), version="1", body_bytes_max=4096))
    async with link:
        await link.up()
        yield Stack(client, publisher, redis, controls)


async def test_a_pause_and_a_limit_hold_at_a_dispatcher_when_they_are_answered(
    stack: Stack, amqp_url: str, redis: Redis
) -> None:
    async with dispatching(amqp_url, redis):
        await stack.ask("POST", f"/v1/targets/{HOST}/pause")
        await stack.control.read()
        rule = stack.control.target("default", HOST)
        assert rule is not None
        assert rule.is_paused
        await stack.ask("POST", f"/v1/targets/{HOST}/resume")
        await stack.ask("PUT", f"/v1/targets/{HOST}", json={"per_s": 0.5, "burst": 2})
        await stack.control.read()
        rule = stack.control.target("default", HOST)
        assert rule is not None
        assert not rule.is_paused
        waits = [await stack.limiter.wait_s(a_task(), rule) for _ in range(3)]
        assert waits[:2] == [0, 0]
        assert 1 < waits[2] <= 2


async def test_a_rotated_secret_signs_beside_the_old_one(stack: Stack, amqp_url: str, redis: Redis) -> None:
    task, now = a_task(project="default"), SystemClock().now()

    def signatures() -> list[str]:
        return dict(stack.signer.headers(task, b"{}", now))["webhook-signature"].split(" ")

    before = signatures()
    async with dispatching(amqp_url, redis):
        answer = await stack.ask("POST", "/v1/signing-secret/rotate", json={"overlap_s": 3600})
    assert (answer["version"], answer["previous"]["version"]) == (2, 1)
    await stack.control.read()
    [new, old] = signatures()
    assert [old] == before
    assert new != old
    now += timedelta(hours=1, minutes=1)
    assert len(signatures()) == 1


async def test_a_flushed_redis_is_healed_by_the_next_whole(stack: Stack, amqp_url: str, redis: Redis) -> None:
    async with dispatching(amqp_url, redis):
        await stack.ask("POST", f"/v1/targets/{HOST}/pause")
        await stack.ask("POST", "/v1/signing-secret/rotate")
        await redis.flushdb()
        await stack.control_publisher.publish()

        async def is_healed() -> bool:
            fresh = Control(redis)
            await fresh.read()
            rule = fresh.target("default", HOST)
            return rule is not None and rule.is_paused and fresh.versions("default").current == 2

        await until("the rules to be back", is_healed)


async def test_a_change_without_a_dispatcher_is_202_and_holds_once_there_is_one(
    stack: Stack, amqp_url: str, redis: Redis
) -> None:
    await stack.ask("POST", f"/v1/targets/{HOST}/pause", 202)
    async with dispatching(amqp_url, redis):

        async def holds() -> bool:
            await stack.control.read()
            rule = stack.control.target("default", HOST)
            return rule is not None and rule.is_paused

        await until("the pause to hold", holds)


async def test_wholes_that_nobody_takes_wait_in_the_queue_and_are_harmless(
    stack: Stack, controls: ControlStore, amqp_url: str, amqp: AbstractConnection, redis: Redis
) -> None:
    """Dispatchers or their Redis were away for a while: old wholes come before, and beside, new changes."""
    await paused(controls)
    for _ in range(3):
        await ControlPublisher(controls, stack.publisher).publish()
    last = await paused(controls, is_paused=False)
    new = await paused(controls, "new.example.com")
    await Control(redis).write(a_change(last))
    await Control(redis).write(a_change(new))
    async with dispatching(amqp_url, redis):

        async def is_taken() -> bool:
            return await ready(amqp, topology.DISPATCHER_COMMANDS) == 0

        await until("the queue to be empty", is_taken)
    assert await known(redis) == last
    assert await known(redis, "new.example.com") == new
    assert len(await redis.hkeys(TARGETS)) == 2


async def test_a_postgres_that_is_away_is_a_503_and_nothing_is_told(
    stack: Stack, aiohttp_client: AiohttpClient
) -> None:
    class Silent:
        async def set_control(self, command: SetControl) -> None:
            raise AssertionError(f"told {command}")

    url = "postgres://carillon:x@127.0.0.1:1/carillon"
    async with postgres_pool(url, role="carillon_ingest", schema="ingest", application_name="test") as nowhere:
        door = TargetDoor(ControlStore(nowhere), Silent(), SystemClock())
        stack.client = await aiohttp_client(build_app([door], Keys(KEY), version="1", body_bytes_max=4096))
        await stack.ask("POST", f"/v1/targets/{HOST}/pause", 503)
