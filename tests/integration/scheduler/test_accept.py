"""Creates and returns against real Postgres: what is held, what the wheel hears, and what the history is told."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from aio_pika.abc import AbstractConnection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from libs.common import topology
from libs.common.connection import Link
from libs.common.consumer import BatchConsumer
from libs.common.contracts import CreateTask, ReturnTask, Task, TaskAccepted, TaskConflict, encode
from libs.common.intake import Intake, Poison, decoder
from libs.common.publisher import Publisher
from services.scheduler.store import Store
from tests.integration.scheduler.rig import (
    SECOND,
    FakePublisher,
    Gate,
    Held,
    LosesAnswers,
    Order,
    Recorder,
    Tables,
    a_pool,
    a_task,
    an_acceptor,
    at,
    bystander,
    confirm_all,
    confirm_none,
    until,
)


def creates(*tasks: Task) -> list[CreateTask]:
    return [CreateTask(task=task) for task in tasks]


def back(task: Task, *order: int, in_s: float = -1) -> ReturnTask:
    return ReturnTask(task=at(task, *order), not_before=task.due_at + in_s * SECOND, reason="rung is full")


def conflict(task: Task) -> TaskConflict:
    return TaskConflict(id=task.id, project=task.project, fingerprint=task.fingerprint)


# --- creates


async def test_a_new_create_is_held_told_to_the_wheel_and_accepted(
    store: Store, tables: Tables, publisher: FakePublisher, held: Held
) -> None:
    task = a_task(30)
    await an_acceptor(store, publisher, held).creates(creates(task))
    assert publisher.take() == [TaskAccepted(task=task)]
    assert held.dues == {task.id: task.due_at}
    assert await tables.orders(task.id) == [(1, 1, 0)]


async def test_a_create_redelivered_before_it_fires_says_the_same_again_from_the_row(
    store: Store, tables: Tables, publisher: FakePublisher, held: Held
) -> None:
    acceptor, task = an_acceptor(store, publisher, held), a_task(30)
    resolved_later = msgspec.structs.replace(task, due_at=task.due_at + SECOND)  # the same request: in 30 s
    await acceptor.creates(creates(task))
    await acceptor.creates(creates(task))
    await acceptor.creates(creates(resolved_later))
    assert publisher.take() == [TaskAccepted(task=task)] * 3
    assert await tables.message(task.id) == encode(task)
    assert await tables.due_at(task.id) == task.due_at == held.dues[task.id]


async def test_a_create_redelivered_after_it_has_fired_is_accepted_again_and_does_not_fire_again(
    store: Store, tables: Tables, publisher: FakePublisher, held: Held
) -> None:
    acceptor, task = an_acceptor(store, publisher, held), a_task()
    await acceptor.creates(creates(task))
    await store.fire_these([task.id], confirm_all)
    held.dues.clear()
    await acceptor.creates(creates(task))
    assert publisher.take() == [TaskAccepted(task=task)] * 2
    assert held.dues == {}
    assert await tables.waiting() == 0


async def test_another_request_under_a_waiting_id_is_told_as_a_conflict_alone(
    store: Store, tables: Tables, publisher: FakePublisher, held: Held
) -> None:
    acceptor, task = an_acceptor(store, publisher, held), a_task()
    other = a_task(60, id=task.id, fingerprint="b")
    await acceptor.creates(creates(task))
    publisher.take()
    await acceptor.creates(creates(other))
    assert publisher.take() == [conflict(other)]
    assert await tables.message(task.id) == encode(task)
    assert held.dues == {task.id: task.due_at}


async def test_another_request_under_an_id_that_has_fired_is_told_as_a_conflict_alone(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    acceptor, task = an_acceptor(store, publisher), a_task()
    other = a_task(60, id=task.id, fingerprint="b")
    await acceptor.creates(creates(task))
    await store.fire_these([task.id], confirm_all)
    publisher.take()
    await acceptor.creates(creates(other))
    assert publisher.take() == [conflict(other)]
    assert await tables.waiting() == 0


async def test_inside_one_batch_the_first_request_stands_and_the_other_is_a_conflict(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    task = a_task()
    other = a_task(60, id=task.id, fingerprint="b")
    neighbour = a_task()
    await an_acceptor(store, publisher).creates(creates(task, other, task, neighbour, other))
    accepted = [TaskAccepted(task=task), TaskAccepted(task=task), TaskAccepted(task=neighbour)]
    assert publisher.take() == accepted + [conflict(other)] * 2
    assert await tables.message(task.id) == encode(task)


@pytest.mark.parametrize("has_fired", [True, False], ids=["fired", "waiting"])
async def test_a_conflict_that_comes_first_in_a_batch_does_not_speak_for_those_behind_it(
    store: Store, tables: Tables, publisher: FakePublisher, has_fired: bool
) -> None:
    acceptor, task = an_acceptor(store, publisher), a_task()
    other, redriven = a_task(60, id=task.id, fingerprint="b"), at(task, 2, 1, 0)
    await acceptor.creates(creates(task))
    if has_fired:
        await store.fire_these([task.id], confirm_all)
    publisher.take()
    await acceptor.creates(creates(other, task))
    assert publisher.take() == [conflict(other), TaskAccepted(task=task)]
    await acceptor.creates(creates(other, redriven))
    assert publisher.take() == [conflict(other), TaskAccepted(task=redriven)]
    assert await tables.orders(task.id) == [(2, 1, 0)]


async def test_the_same_create_twice_in_one_batch_is_one_row_and_the_first_time_counts(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    task = a_task()
    resolved_later = msgspec.structs.replace(task, due_at=task.due_at + SECOND)
    await an_acceptor(store, publisher).creates(creates(task, resolved_later))
    assert publisher.take() == [TaskAccepted(task=task)] * 2
    assert await tables.due_at(task.id) == task.due_at


async def test_a_redrive_that_shares_its_batch_with_the_first_create_is_what_is_told(
    store: Store, tables: Tables, publisher: FakePublisher
) -> None:
    """The history must hear of the generation that waits, as it would if the first create came again alone."""
    acceptor, task = an_acceptor(store, publisher), a_task()
    redriven = at(task, 2, 1, 0)
    await acceptor.creates(creates(task, redriven))
    together = publisher.take()
    await acceptor.creates(creates(task))
    assert together == [TaskAccepted(task=redriven)] * 2 == publisher.take() * 2
    assert await tables.orders(task.id) == [(2, 1, 0)]


async def test_a_create_that_meets_its_own_return_changes_nothing(store: Store, tables: Tables) -> None:
    acceptor, task = an_acceptor(store), a_task()
    await acceptor.creates(creates(task))
    await store.fire_these([task.id], confirm_all)
    await acceptor.returns([back(task, 1, 2, 1)])
    await acceptor.creates(creates(task))
    assert await tables.orders(task.id) == [(1, 2, 1)]


# --- returns


async def test_a_return_is_held_until_its_own_time_and_nobody_is_told(
    store: Store, tables: Tables, publisher: FakePublisher, held: Held
) -> None:
    acceptor, task = an_acceptor(store, publisher, held), a_task()
    await acceptor.creates(creates(task))
    await store.fire_these([task.id], confirm_all)
    publisher.take()
    await acceptor.returns([back(task, 1, 2, 1, in_s=60)])
    assert publisher.take() == []
    assert held.dues[task.id] == await tables.due_at(task.id) == task.due_at + 60 * SECOND


async def test_the_users_own_time_never_changes_on_a_return(store: Store) -> None:
    acceptor, task = an_acceptor(store), a_task(-30)
    await acceptor.creates(creates(task))
    await store.fire_these([task.id], confirm_all)
    for hop in range(1, 4):
        await acceptor.returns([back(task, 1, 1, hop, in_s=hop)])
        emit = Recorder()
        await store.fire_these([task.id], emit)
        [row] = emit.rows
        assert row.due_at == task.due_at + hop * SECOND
        assert msgspec.json.decode(row.message, type=Task) == at(task, 1, 1, hop)


async def test_a_fork_of_returns_in_one_batch_keeps_the_highest(store: Store, tables: Tables, held: Held) -> None:
    acceptor, task = an_acceptor(store, held=held), a_task()
    await acceptor.returns([back(task, 1, 2, 5, in_s=5), back(task, 1, 3, 1, in_s=9), back(task, 1, 2, 9, in_s=7)])
    assert await tables.orders(task.id) == [(1, 3, 1)]
    assert held.dues[task.id] == task.due_at + 9 * SECOND


async def test_a_return_behind_its_row_or_tombstone_is_forgotten(store: Store, tables: Tables, held: Held) -> None:
    acceptor, task = an_acceptor(store, held=held), a_task()
    await acceptor.returns([back(task, 1, 2, 2)])
    await acceptor.returns([back(task, 1, 1, 7), back(task, 1, 2, 2)])
    assert await tables.orders(task.id) == [(1, 2, 2)]
    await store.fire_these([task.id], confirm_all)
    held.dues.clear()
    await acceptor.returns([back(task, 1, 2, 2)])
    await acceptor.returns([back(task, 1, 1, 9)])
    assert (await tables.waiting(), held.dues) == (0, {})


async def test_a_return_that_overtakes_the_commit_of_its_fire_is_held_and_told_to_the_wheel(
    store: Store, tables: Tables, held: Held
) -> None:
    acceptor, task = an_acceptor(store, held=held), a_task()
    await acceptor.creates(creates(task))
    gate = Gate()
    firing = asyncio.create_task(store.fire_these([task.id], gate))
    await gate.reached.wait()
    accepting = asyncio.create_task(acceptor.returns([back(task, 1, 2, 1, in_s=60)]))
    await until("the return to wait for the fire", tables.someone_waits_for_a_lock)
    gate.opened.set()
    await asyncio.gather(firing, accepting)
    assert await tables.orders(task.id) == [(1, 2, 1)]
    assert held.dues[task.id] == task.due_at + 60 * SECOND


# --- Postgres and the broker fail


async def test_what_was_committed_though_the_answer_was_lost_is_told_to_the_wheel_too(
    migrated_postgres_url: str, store: Store, tables: Tables, publisher: FakePublisher, held: Held
) -> None:
    task = a_task(30)
    async with a_pool(migrated_postgres_url) as postgres:
        await an_acceptor(LosesAnswers(postgres), publisher, held).creates(creates(task))
    assert publisher.take() == [TaskAccepted(task=task)]
    assert held.dues == {task.id: task.due_at}
    assert await tables.orders(task.id) == [(1, 1, 0)]


async def test_a_known_id_does_not_move_the_wheel_away_from_its_rows_own_time(store: Store, held: Held) -> None:
    acceptor, task = an_acceptor(store, held=held), a_task(30)
    await acceptor.creates(creates(task))
    held.dues.clear()
    await acceptor.creates(creates(msgspec.structs.replace(task, due_at=task.due_at + 9 * SECOND)))
    assert held.dues.get(task.id, task.due_at) == task.due_at


async def test_the_event_is_told_until_the_broker_takes_it(store: Store, tables: Tables) -> None:
    refusals = [True] * 3
    publisher = FakePublisher(lambda _item: bool(refusals and refusals.pop()))
    task = a_task()
    await an_acceptor(store, publisher).creates(creates(task))
    assert publisher.take() == [TaskAccepted(task=task)]


@pytest.mark.parametrize(
    "bad", [{"project": "ac\0me"}, {"order": (1, 2**31, 0)}, {"order": (1, 1, 2**70)}], ids=["NUL", "int4", "int8"]
)
async def test_data_that_postgres_refuses_is_poison_alone_and_no_reason_to_park_its_neighbours(
    store: Store, bad: dict[str, Any]
) -> None:
    acceptor = an_acceptor(store)
    with pytest.raises(Poison, match="Postgres refuses it"):
        await acceptor.creates(creates(a_task(**bad)))
    with pytest.raises(Exception, match=r".") as raised:
        await acceptor.creates(creates(a_task(), a_task(**bad)))
    assert not isinstance(raised.value, Poison)
    await acceptor.creates(creates(a_task()))


async def test_nul_in_labels_and_a_time_of_year_9999_are_good_data(store: Store, tables: Tables) -> None:
    task = a_task(labels={"a\0": "\0"}, due_at=a_task().due_at.replace(year=9999))
    await an_acceptor(store).creates(creates(task))
    assert await tables.message(task.id) == encode(task)


async def test_one_poisonous_create_is_parked_and_its_neighbours_of_the_same_message_are_held(
    amqp_url: str, amqp: AbstractConnection, store: Store, tables: Tables
) -> None:
    publisher, link = Publisher(), Link(amqp_url, "scheduler under test", topology.topology())
    intake = Intake(topology.SCHEDULER_TASKS, decoder(CreateTask), publisher, prefetch=8)
    link.join(publisher)
    link.join(intake)
    good, poison = [a_task() for _ in range(6)], [a_task(project="\0"), a_task(order=(1, 2**40, 0))]
    stopping = asyncio.Event()
    async with link:
        await link.up()
        run = asyncio.create_task(BatchConsumer(intake, an_acceptor(store, publisher).creates).run(stopping))
        items = [encode(create) for create in creates(*good[:3], *poison, *good[3:])]
        assert not any(await publisher.publish_many(topology.CREATE, items))
        channel = await amqp.channel()
        parked: list[bytes] = []

        async def park(message: Any) -> None:
            parked.append(message.body)
            assert message.headers["carillon-origin"] == topology.SCHEDULER_TASKS
            await message.ack()

        await (await channel.get_queue(topology.PARKING, ensure=False)).consume(park)
        await until("both to be parked", lambda: len(parked) == 2)

        async def all_good() -> bool:
            return await tables.waiting() == len(good)

        await until("the neighbours to be held", all_good)
        stopping.set()
        await asyncio.wait_for(run, 5)
    assert sorted(parked) == sorted(b"[" + items[3 + n] + b"]" for n in range(2))


# --- the order rule as a model: one id, any history of creates, returns and fires

ORDERS = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 3))


@dataclass
class Model:
    """What should stand under one id."""

    row: tuple[Order, timedelta] | None = None
    done: list[Order] = field(default_factory=list)

    def accept(self, order: Order, due: timedelta) -> None:
        if any(done >= order for done in self.done):
            return
        if self.row is None or order > self.row[0]:
            self.row = (order, due)

    def fire(self) -> None:
        if self.row is not None:
            self.done.append(self.row[0])
            self.row = None


def machine_of(run: Callable[[Any], Any], store: Store, tables: Tables) -> type[RuleBasedStateMachine]:
    class OneId(RuleBasedStateMachine):
        """`run` runs a coroutine to its end; all of an example happens to one fresh id."""

        @initialize()
        def begin(self) -> None:
            self.model, self.publisher, self.held = Model(), FakePublisher(), Held()
            self.acceptor = an_acceptor(store, self.publisher, self.held)
            self.task = a_task(-60, id=uuid4())
            self.stands = False

        def due(self, order: Order) -> timedelta:
            return order[0] * 9 * SECOND + order[1] * 3 * SECOND + order[2] * SECOND

        @rule(orders=st.lists(ORDERS, min_size=1, max_size=3))
        def returns(self, orders: list[Order]) -> None:
            due = {order: self.task.due_at + self.due(order) for order in orders}
            messages = [ReturnTask(task=at(self.task, *order), not_before=due[order], reason="") for order in orders]
            run(self.acceptor.returns(messages))
            self.model.accept(max(orders), self.due(max(orders)))
            self.stands = True
            assert self.publisher.take() == []

        @rule(fingerprints=st.lists(st.sampled_from("ab"), min_size=1, max_size=3))
        def creates(self, fingerprints: list[str]) -> None:
            if not self.stands:
                fingerprints = ["a", *fingerprints]
            tasks = [msgspec.structs.replace(self.task, fingerprint=fingerprint) for fingerprint in fingerprints]
            run(self.acceptor.creates(creates(*tasks)))
            self.stands = True
            self.model.accept((1, 1, 0), timedelta(0))
            said = self.publisher.take()
            standing = at(self.task, *self.model.row[0]) if self.model.row else self.task
            told = [TaskAccepted(task=standing) if task.fingerprint == "a" else conflict(task) for task in tasks]
            first = tasks[0].fingerprint
            assert said == sorted(told, key=lambda event: isinstance(event, TaskAccepted) is (first != "a"))

        @rule(is_confirmed=st.booleans())
        def fires(self, is_confirmed: bool) -> None:
            found = run(store.fire_these([self.task.id], confirm_all if is_confirmed else confirm_none))
            assert found == (self.model.row is not None)
            if is_confirmed:
                self.model.fire()

        @invariant()
        def tables_and_wheel_agree_with_the_model(self) -> None:
            due = self.task.due_at + self.model.row[1] if self.model.row else None
            rows = [(self.model.row[0], due)] if self.model.row else []
            assert run(tables.state(self.task.id)) == (rows, sorted(self.model.done))
            assert due is None or due == self.held.dues[self.task.id]

    return OneId


def test_any_history_of_one_id_obeys_the_order(migrated_postgres_url: str) -> None:
    with asyncio.Runner() as runner:
        run = runner.run
        pool, look = a_pool(migrated_postgres_url), bystander(migrated_postgres_url)
        store, tables = Store(run(pool.__aenter__())), run(look.__aenter__())
        try:
            run_state_machine_as_test(
                machine_of(run, store, tables),
                settings=settings(max_examples=100, stateful_step_count=12, suppress_health_check=list(HealthCheck)),
            )
        finally:
            run(look.__aexit__(None, None, None))
            run(pool.__aexit__(None, None, None))
