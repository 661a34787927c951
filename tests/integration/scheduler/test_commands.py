"""Cancel, reschedule and run now against real Postgres: what is answered, what the history hears, who wins a race."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import pytest

from libs.common import postgres as patience
from libs.common.clock import SystemClock
from libs.common.contracts import (
    CANCELLED_WHEN_DUE,
    AnyMessage,
    CreateTask,
    ReturnTask,
    Task,
    TaskAccepted,
    TaskAnswer,
    TaskCommand,
    TaskDue,
    TaskFinished,
    decode_task,
    encode,
)
from libs.common.ids import new_id
from libs.common.postgres import Postgres
from services.scheduler.alarm import Alarm
from services.scheduler.store import OVERDUE, Store
from tests.integration.scheduler.asker import Asking, Fickle, Killed, a_cancel, a_reschedule
from tests.integration.scheduler.rig import (
    SECOND,
    FakePublisher,
    Gate,
    Held,
    Order,
    Tables,
    a_firing,
    a_pool,
    a_task,
    an_acceptor,
    at,
    bystander,
    confirm_all,
    confirm_none,
    until,
)

RACES = 100


@dataclass
class Replica:
    """One scheduler's handlers on a Postgres of their own."""

    postgres: Postgres
    publisher: FakePublisher
    held: Held

    def __post_init__(self) -> None:
        self.store = Store(self.postgres)
        self.acceptor = an_acceptor(self.store, self.publisher, self.held)
        self.ask = Asking(self.postgres, self.publisher, self.held)

    async def creates(self, *tasks: Task) -> None:
        await self.acceptor.creates([CreateTask(task=task) for task in tasks])

    async def returns(self, task: Task, in_s: float = -1) -> None:
        await self.acceptor.returns([ReturnTask(task=task, not_before=task.due_at + in_s * SECOND, reason="full")])

    async def fires(self, task: Task) -> list[Order]:
        """What leaves when somebody wakes for it."""
        publisher = FakePublisher()
        await a_firing(self.store, publisher).fire_these([task.id])
        return [decode_task(due.task).order for due in publisher.take() if isinstance(due, TaskDue)]

    def told(self) -> list[AnyMessage]:
        return self.publisher.take()


@pytest.fixture
async def one(migrated_postgres_url: str, publisher: FakePublisher, held: Held) -> AsyncIterator[Replica]:
    async with a_pool(migrated_postgres_url, "replica-1") as postgres:
        yield Replica(postgres, publisher, held)


@pytest.fixture
async def other(migrated_postgres_url: str) -> AsyncIterator[Replica]:
    async with a_pool(migrated_postgres_url, "replica-2") as postgres:
        yield Replica(postgres, FakePublisher(), Held())


def ended(events: Sequence[AnyMessage]) -> list[Order]:
    """What was told as cancelled; nothing else may have been told."""
    assert all(isinstance(event, TaskFinished) and event.state == "cancelled" for event in events), events
    return [(event.generation, event.attempt, event.hop) for event in events if isinstance(event, TaskFinished)]


def reasons(events: Sequence[AnyMessage]) -> set[str | None]:
    """Why the tasks are said to be cancelled."""
    return {event.reason for event in events if isinstance(event, TaskFinished)}


def cancelled_after_all(events: Sequence[AnyMessage], task: Task) -> bool:
    """The history hears of the task, and that it is cancelled."""
    return TaskAccepted(task=task) in events and ended([e for e in events if e != TaskAccepted(task=task)]) != []


@asynccontextmanager
async def in_hand(tables: Tables, task: Task) -> AsyncIterator[None]:
    """Somebody holds the row's lock, and leaves the row as it was."""
    async with tables.connection.transaction():
        await tables.connection.execute("SELECT FROM scheduler.task WHERE id = $1 FOR UPDATE", task.id)
        yield


# --- cancel


async def test_a_waiting_task_is_cancelled_told_so_and_never_fires(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    cancel = a_cancel(task)
    await one.creates(task)
    one.told()
    answer = await one.ask(cancel)
    assert answer == TaskAnswer(command_id=cancel.command_id, id=task.id, result="cancelled", generation=1)
    [event] = one.told()
    assert isinstance(event, TaskFinished)
    assert (event.id, event.project, event.state, event.reason) == (task.id, "acme", "cancelled", "cancelled")
    assert (event.generation, event.attempt, event.hop) == (1, 1, 0)
    assert (await tables.orders(task.id), await tables.causes(task.id)) == ([], ["cancelled"])


async def test_a_cancel_that_overtakes_its_create_wins(one: Replica, tables: Tables) -> None:
    task = a_task()
    assert (await one.ask(a_cancel(task))).result == "unknown"
    assert one.told() == []
    for _ in range(2):  # and a redelivery is told the same
        await one.creates(task)
        told = one.told()
        assert cancelled_after_all(told, task)
        assert reasons(told) == {"cancelled"}
        assert await one.fires(task) == []
    assert one.held.dues == {}
    assert await tables.waiting() == 0


async def test_a_create_that_comes_late_after_a_cancel_is_told_again_as_cancelled(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    await one.creates(task)
    assert (await one.ask(a_cancel(task))).result == "cancelled"
    one.told()
    await one.creates(task)
    told = one.told()
    assert cancelled_after_all(told, task)
    assert reasons(told) == {"cancelled"}
    assert await tables.waiting() == 0


@pytest.mark.parametrize("order", [(1, 1, 0), (1, 2, 0), (1, 1, 1), (1, 3, 4)])
async def test_a_task_that_may_be_out_there_has_left_and_comes_back_no_more(
    one: Replica, tables: Tables, order: Order
) -> None:
    """Past its time, or on its way back from the dispatcher; the row goes all the same."""
    task = a_task(-1) if order == (1, 1, 0) else at(a_task(60), *order)
    await one.returns(task, in_s=0)
    assert (await one.ask(a_cancel(task))).result == "left"
    told = one.told()
    assert (ended(told), reasons(told)) == ([order], {CANCELLED_WHEN_DUE})
    assert (await tables.orders(task.id), await tables.causes(task.id)) == ([], ["noted"])
    await one.creates(task)
    assert reasons(one.told()) == {CANCELLED_WHEN_DUE}, "another copy of it may still be called"
    await one.returns(at(task, 1, 7, 7))
    told = one.told()
    assert (ended(told), reasons(told)) == ([(1, 7, 7)], {CANCELLED_WHEN_DUE})
    assert await one.fires(task) == []


async def test_what_has_fired_has_left_and_its_return_is_told_as_cancelled(one: Replica, tables: Tables) -> None:
    task = a_task()
    await one.creates(task)
    assert await one.fires(task) == [(1, 1, 0)]
    one.told()
    assert (await one.ask(a_cancel(task))).result == "left"
    assert one.told() == []  # its call may be a success: the dispatcher says how it ends
    await one.creates(task)
    assert one.told() == [TaskAccepted(task=task)]
    await one.returns(at(task, 1, 2, 1))
    await one.returns(at(task, 1, 2, 1))
    told = one.told()
    assert (ended(told), reasons(told)) == ([(1, 2, 1)] * 2, {CANCELLED_WHEN_DUE})
    assert await one.fires(task) == []
    assert sorted(await tables.causes(task.id)) == ["fired", "noted"]


async def test_a_return_that_has_fired_already_is_no_news_after_a_cancel(one: Replica) -> None:
    task = a_task()
    await one.returns(at(task, 1, 2, 1))
    assert await one.fires(task) == [(1, 2, 1)]
    await one.ask(a_cancel(task))
    await one.returns(at(task, 1, 2, 1))
    assert one.told() == []


async def test_what_expired_has_left(one: Replica, tables: Tables) -> None:
    task = a_task(-5, expires_at=a_task(-2).due_at)
    await one.creates(task)
    assert await one.fires(task) == []
    one.told()
    assert (await one.ask(a_cancel(task))).result == "left"
    assert one.told() == []
    assert sorted(await tables.causes(task.id)) == ["expired", "noted"]


async def test_the_cancel_of_another_projects_task_does_nothing_at_all(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    await one.creates(task)
    one.told()
    before = await tables.state(task.id)
    assert (await one.ask(a_cancel(task, project="stranger"))).result == "unknown"
    assert (await one.ask(a_reschedule(task, project="stranger"))).result == "unknown"
    assert one.told() == []
    assert await tables.state(task.id) == before
    assert await tables.gone() == 0


async def test_a_cancel_by_another_project_that_comes_first_covers_nothing(one: Replica) -> None:
    task = a_task()
    assert (await one.ask(a_cancel(task, project="stranger"))).result == "unknown"
    await one.creates(task)
    assert one.told() == [TaskAccepted(task=task)]
    assert await one.fires(task) == [(1, 1, 0)]


async def test_another_project_is_told_nothing_of_an_id_that_has_fired(one: Replica) -> None:
    task = a_task()
    await one.creates(task)
    await one.fires(task)
    assert (await one.ask(a_reschedule(task, project="stranger"))).result == "unknown"
    assert (await one.ask(a_cancel(task, project="stranger"))).result == "unknown"


async def test_tombstones_of_the_release_before_have_no_project_and_still_count(one: Replica, tables: Tables) -> None:
    task = a_task()
    await one.creates(task)
    await one.fires(task)
    await tables.connection.execute("UPDATE scheduler.task_done SET project = NULL, command_id = NULL")
    await one.creates(task)
    assert await tables.waiting() == 0
    assert (await one.ask(a_reschedule(task))).result == "left"
    assert (await one.ask(a_cancel(task))).result == "left"


@pytest.mark.parametrize("state", ["waiting", "due", "back", "fired", "none"])
@pytest.mark.parametrize("is_the_same", [True, False], ids=["redelivered", "asked-anew"])
async def test_a_cancel_said_again_gets_the_same_answer_and_tells_the_same(
    one: Replica, state: str, is_the_same: bool
) -> None:
    task = a_task(60 if state == "waiting" else -1)
    if state == "back":
        await one.returns(at(task, 1, 2, 1))
    elif state != "none":
        await one.creates(task)
    if state == "fired":
        await one.fires(task)
    one.told()
    cancel = a_cancel(task)
    answer, events = await one.ask(cancel), [order[0] for order in ended(one.told())]
    assert len(events) == (state in ("waiting", "due", "back"))
    for _ in range(3):
        again = a_cancel(task, command_id=cancel.command_id if is_the_same else None)
        repeated = await one.ask(again)
        assert (repeated.result, repeated.generation) == (answer.result, answer.generation)
        assert [order[0] for order in ended(one.told())] == events


async def test_a_redrive_after_a_cancel_is_a_new_beginning(one: Replica, tables: Tables) -> None:
    task = a_task()
    await one.creates(task)
    await one.ask(a_cancel(task))
    one.told()
    redriven = at(task, 2, 1, 0)
    await one.creates(redriven)
    assert one.told() == [TaskAccepted(task=redriven)]
    assert await one.fires(task) == [(2, 1, 0)]


async def test_a_cancel_redelivered_after_a_redrive_leaves_the_redrive_alone(one: Replica, tables: Tables) -> None:
    task = a_task()
    redriven = at(task, 2, 1, 0)
    await one.creates(task)
    cancel = a_cancel(task)
    answer = await one.ask(cancel)
    await one.creates(redriven)
    assert await one.ask(cancel) == answer
    assert await tables.orders(task.id) == [(2, 1, 0)]
    assert await one.fires(task) == [(2, 1, 0)]
    assert await one.ask(cancel) == answer
    await one.returns(at(task, 2, 2, 1))  # its retries too
    assert await one.fires(task) == [(2, 2, 1)]


async def test_a_second_cancel_redelivered_after_a_redrive_leaves_it_alone_too(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    await one.creates(task)
    await one.ask(a_cancel(task))
    answer = await one.ask(cancel := a_cancel(task))
    await one.creates(at(task, 2, 1, 0))
    assert await one.ask(cancel) == answer
    assert await tables.orders(task.id) == [(2, 1, 0)]


async def test_a_redrive_can_be_cancelled_too(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    await one.creates(task)
    await one.ask(a_cancel(task))
    await one.creates(at(task, 2, 1, 0))
    one.told()
    answer = await one.ask(a_cancel(task))  # of an asker that has not heard of the redrive yet
    assert (answer.result, answer.generation) == ("cancelled", 2)
    assert ended(one.told()) == [(2, 1, 0)]
    await one.creates(at(task, 2, 1, 0))
    assert await tables.waiting() == 0


async def test_a_cancel_of_a_redrive_that_is_still_on_its_way_covers_it(one: Replica, tables: Tables) -> None:
    """The row is that of the generation before."""
    task = a_task(60)
    redriven = at(task, 2, 1, 0)
    await one.creates(task)
    one.told()
    answer = await one.ask(a_cancel(task, generation=2))
    assert (answer.result, answer.generation) == ("cancelled", 2)
    assert ended(one.told()) == [(2, 1, 0)]
    await one.creates(redriven)
    assert cancelled_after_all(one.told(), redriven)
    assert await tables.waiting() == 0


async def test_a_cancel_older_than_the_reschedule_it_meets_changes_nothing(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    older = a_cancel(task)
    await one.creates(task)
    moved = await one.ask(a_reschedule(task, task.due_at + 60 * SECOND))
    one.told()
    answer = await one.ask(older)
    assert (answer.result, answer.generation) == ("rescheduled", moved.generation)
    assert answer.overtaken_by == moved.command_id
    assert one.told() == []
    assert await tables.orders(task.id) == [(2, 1, 0)]


# --- reschedule, run now


async def test_a_waiting_task_gets_its_new_time_in_the_next_generation(
    one: Replica, tables: Tables, held: Held
) -> None:
    task = a_task(60, labels={"a": "b"}, expires_at=a_task(9000).due_at)
    command = a_reschedule(task, new_due := task.due_at + 3600 * SECOND)
    await one.creates(task)
    one.told()
    answer = await one.ask(command)
    assert answer == TaskAnswer(
        command_id=command.command_id, id=task.id, result="rescheduled", generation=2, due_at=new_due
    )
    [event] = one.told()
    assert isinstance(event, TaskAccepted)
    moved = event.task
    assert moved == at(a_task(id=task.id, created_at=task.created_at, due_at=new_due, labels={"a": "b"},
                              expires_at=task.expires_at, call=moved.call), 2, 1, 0)  # fmt: skip
    assert bytes(moved.call) == bytes(task.call)
    assert await tables.message(task.id) == encode(moved)
    assert await tables.due_at(task.id) == held.dues[task.id] == new_due
    assert await tables.connection.fetchval("SELECT size FROM scheduler.task") == len(encode(moved))


@pytest.mark.parametrize("due_in_s", [None, -3600.0, 0.0], ids=["run-now", "past", "present"])
async def test_run_now_and_a_time_in_the_past_mean_now_by_postgres_clock(
    one: Replica, tables: Tables, due_in_s: float | None
) -> None:
    task = a_task(3600)
    await one.creates(task)
    before = await tables.now()
    answer = await one.ask(a_reschedule(task, None if due_in_s is None else await tables.now() + due_in_s * SECOND))
    assert answer.due_at is not None
    assert before <= answer.due_at <= await tables.now() + SECOND / 1000
    assert answer.due_at.microsecond % 1000 == 0
    await until("it to be due", lambda: _is_past(tables, answer.due_at))
    assert await one.fires(task) == [(2, 1, 0)]


async def _is_past(tables: Tables, moment: datetime | None) -> bool:
    assert moment is not None
    return await tables.now() >= moment


@pytest.mark.parametrize("order", [(1, 1, 0), (1, 2, 0), (1, 1, 1)])
async def test_what_may_be_out_there_cannot_be_moved(one: Replica, tables: Tables, order: Order) -> None:
    task = a_task(-1) if order == (1, 1, 0) else at(a_task(60), *order)
    await one.returns(task, in_s=0)
    answer = await one.ask(a_reschedule(task, task.due_at + 3600 * SECOND))
    assert (answer.result, answer.due_at) == ("left", None)
    assert one.told() == []
    assert await tables.due_at(task.id) == task.due_at
    assert await tables.orders(task.id) == [order]


@pytest.mark.parametrize("end", ["fired", "cancelled"])
async def test_what_has_gone_cannot_be_moved(one: Replica, tables: Tables, end: str) -> None:
    task = a_task(-1 if end == "fired" else 60)
    await one.creates(task)
    if end == "fired":
        await one.fires(task)
    else:
        await one.ask(a_cancel(task))
    one.told()
    assert (await one.ask(a_reschedule(task))).result == "left"
    assert one.told() == []
    assert await tables.waiting() == 0


async def test_what_nobody_has_heard_of_cannot_be_moved(one: Replica, tables: Tables) -> None:
    assert (await one.ask(a_reschedule(a_task()))).result == "unknown"
    assert (one.told(), await tables.waiting(), await tables.gone()) == ([], 0, 0)


async def test_a_reschedule_said_again_changes_nothing_and_tells_the_same(
    one: Replica, tables: Tables, held: Held
) -> None:
    task = a_task(60)
    command = a_reschedule(task, task.due_at + 60 * SECOND)
    await one.creates(task)
    one.told()
    answer, events = await one.ask(command), one.told()
    held.dues.clear()
    assert await one.ask(command) == answer
    assert one.told() == events
    assert held.dues == {task.id: answer.due_at}  # the wheel of a process that died knew it alone
    assert await tables.orders(task.id) == [(2, 1, 0)]


async def test_a_run_now_said_again_is_not_run_twice(one: Replica) -> None:
    task = a_task(60)
    command = a_reschedule(task)
    await one.creates(task)
    answer = await one.ask(command)
    assert await one.ask(command) == answer  # due by now, and yet the same
    assert await one.fires(task) == [(2, 1, 0)]
    assert (await one.ask(command)).result == "left"
    assert await one.fires(task) == []


async def test_an_older_reschedule_that_comes_after_a_newer_one_answers_the_newer_time(
    one: Replica, tables: Tables
) -> None:
    task = a_task(60)
    older, newer = a_reschedule(task, task.due_at + SECOND), a_reschedule(task, task.due_at + 2 * SECOND)
    await one.creates(task)
    answer = await one.ask(newer)
    late = await one.ask(older)
    assert (late.result, late.generation, late.due_at) == ("rescheduled", answer.generation, answer.due_at)
    assert (answer.overtaken_by, late.overtaken_by) == (None, newer.command_id)
    assert (await one.ask(newer)).overtaken_by is None, "the same once more is not older"
    assert await tables.due_at(task.id) == answer.due_at


async def test_each_newer_reschedule_is_a_generation_and_the_last_one_counts(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    await one.creates(task)
    for n in range(2, 6):
        answer = await one.ask(a_reschedule(task, task.due_at + n * SECOND))
        assert (answer.generation, answer.due_at) == (n, task.due_at + n * SECOND)
    assert await tables.orders(task.id) == [(5, 1, 0)]


async def test_a_create_that_comes_late_after_a_reschedule_moves_nothing_back(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    await one.creates(task)
    await one.ask(a_reschedule(task, task.due_at + 60 * SECOND))
    events = one.told()[1:]
    await one.creates(task)
    assert one.told() == events  # the history hears of what stands
    assert await tables.due_at(task.id) == task.due_at + 60 * SECOND


async def test_a_rescheduled_task_can_be_cancelled_by_who_has_not_heard_of_it(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    await one.creates(task)
    await one.ask(a_reschedule(task))
    await one.ask(a_reschedule(task, task.due_at))
    one.told()
    answer = await one.ask(a_cancel(task, generation=1))
    assert answer.generation == 2
    assert ended(one.told()) == [(2, 1, 0)]
    assert await tables.waiting() == 0


async def test_a_reschedule_redelivered_after_a_redrive_leaves_the_redrive_alone(one: Replica, tables: Tables) -> None:
    task = a_task(60)
    command = a_reschedule(task)
    await one.creates(task)
    answer = await one.ask(command)
    await until("it to be due", lambda: _is_past(tables, answer.due_at))
    assert await one.fires(task) == [(2, 1, 0)]
    await one.creates(redriven := at(task, 3, 1, 0))
    assert (await one.ask(command)).result == "left"
    assert await tables.due_at(task.id) == redriven.due_at
    assert (await one.ask(a_reschedule(task, task.due_at))).generation == 4  # a new one moves it


# --- a process dies


@pytest.mark.parametrize("kind", ["cancel", "reschedule"])
async def test_a_death_before_the_commit_has_changed_nothing(one: Replica, tables: Tables, kind: str) -> None:
    task = a_task(60)
    command = a_cancel(task) if kind == "cancel" else a_reschedule(task, task.due_at + SECOND)
    await one.creates(task)
    one.told()
    before = await tables.state(task.id)
    dying = Replica(Fickle(one.postgres, "rollback"), one.publisher, Held())
    with pytest.raises(Killed):
        await dying.ask(command)
    assert (await tables.state(task.id), one.told(), dying.ask.answers.given) == (before, [], [])
    assert (await one.ask(command)).result == {"cancel": "cancelled", "reschedule": "rescheduled"}[kind]


@pytest.mark.parametrize("kind", ["cancel", "reschedule"])
async def test_a_commit_whose_answer_is_lost_is_asked_for_again_and_answered_once(one: Replica, kind: str) -> None:
    task = a_task(60)
    command = a_cancel(task) if kind == "cancel" else a_reschedule(task, task.due_at + SECOND)
    await one.creates(task)
    one.told()
    unlucky = Replica(Fickle(one.postgres, "answer lost"), one.publisher, Held())
    answer = await unlucky.ask(command)
    assert answer.result == {"cancel": "cancelled", "reschedule": "rescheduled"}[kind]
    assert len(one.told()) == 1
    assert await one.ask(command) == answer


@pytest.mark.parametrize("kind", ["cancel", "reschedule"])
async def test_a_death_between_commit_and_publish_is_made_up_for_by_the_redelivery(one: Replica, kind: str) -> None:
    task = a_task(60)
    command = a_cancel(task) if kind == "cancel" else a_reschedule(task, task.due_at + SECOND)
    await one.creates(task)
    one.told()
    dies = FakePublisher(lambda _item: True)
    dies.error = Killed()
    dying = Replica(one.postgres, dies, Held())
    with pytest.raises(Killed):
        await dying.ask(command)
    assert dying.ask.answers.given == []  # nobody is answered what nobody has been told
    answer = await one.ask(command)
    assert answer.result == {"cancel": "cancelled", "reschedule": "rescheduled"}[kind]
    [event] = one.told()
    assert isinstance(event, TaskFinished if kind == "cancel" else TaskAccepted)


async def test_an_event_is_told_until_the_broker_takes_it_and_then_the_asker_is_answered(one: Replica) -> None:
    task = a_task(60)
    await one.creates(task)
    one.told()
    one.publisher.refuses = lambda _item: True
    asking = asyncio.create_task(one.ask(a_cancel(task)))
    done, _ = await asyncio.wait({asking}, timeout=0.1)
    assert not done
    one.publisher.refuses = lambda _item: False
    assert (await asking).result == "cancelled"
    assert ended(one.told()) == [(1, 1, 0)]


# --- races, decided by the row


@pytest.mark.parametrize("is_confirmed", [True, False], ids=["commit", "rollback"])
async def test_a_cancel_waits_for_the_fire_in_progress(one: Replica, tables: Tables, is_confirmed: bool) -> None:
    task = a_task()
    await one.creates(task)
    one.told()
    gate = Gate(confirm_all if is_confirmed else confirm_none)
    firing = asyncio.create_task(one.store.fire_these([task.id], gate))
    await gate.reached.wait()
    cancelling = asyncio.create_task(one.ask(a_cancel(task)))
    await until("the cancel to wait for the fire", tables.someone_waits_for_a_lock)
    gate.opened.set()
    await firing
    assert (await cancelling).result == "left"
    assert ended(one.told()) == ([] if is_confirmed else [(1, 1, 0)])
    assert await one.fires(task) == []
    await one.returns(at(task, 1, 2, 1))
    assert ended(one.told()) == [(1, 2, 1)]


@pytest.mark.parametrize("is_confirmed", [True, False], ids=["commit", "rollback"])
async def test_a_reschedule_waits_for_the_fire_in_progress_and_comes_too_late(
    one: Replica, tables: Tables, is_confirmed: bool
) -> None:
    task = a_task()
    await one.creates(task)
    gate = Gate(confirm_all if is_confirmed else confirm_none)
    firing = asyncio.create_task(one.store.fire_these([task.id], gate))
    await gate.reached.wait()
    moving = asyncio.create_task(one.ask(a_reschedule(task, task.due_at + 60 * SECOND)))
    await until("the reschedule to wait for the fire", tables.someone_waits_for_a_lock)
    gate.opened.set()
    await firing
    assert (await moving).result == "left"
    assert await one.fires(task) == ([] if is_confirmed else [(1, 1, 0)])


@pytest.mark.parametrize("kind", ["cancel", "reschedule"])
async def test_a_task_that_falls_due_while_its_row_is_waited_for_has_left(
    migrated_postgres_url: str, one: Replica, tables: Tables, kind: str
) -> None:
    task = a_task(due_at=await tables.now() + SECOND / 2)
    await one.creates(task)
    async with bystander(migrated_postgres_url) as holder, in_hand(holder, task):
        command = a_cancel(task) if kind == "cancel" else a_reschedule(task, task.due_at + 60 * SECOND)
        asking = asyncio.create_task(one.ask(command))
        await until("the command to wait", tables.someone_waits_for_a_lock)
        await until("it to be due", lambda: _is_past(tables, task.due_at))
    assert (await asking).result == "left"


async def test_a_cancel_waits_for_a_create_in_progress_and_takes_it(
    one: Replica, other: Replica, tables: Tables
) -> None:
    task, gate = a_task(60), asyncio.Event()
    slow = Fickle(other.postgres, gate=gate)
    creating = asyncio.create_task(Replica(slow, other.publisher, other.held).creates(task))
    await slow.at_gate.wait()
    cancelling = asyncio.create_task(one.ask(a_cancel(task)))
    await until("the cancel to wait for the create", tables.someone_waits_for_a_lock)
    gate.set()
    await creating
    assert (await cancelling).result == "cancelled"
    assert ended(one.told()) == [(1, 1, 0)]
    assert await tables.waiting() == 0


@pytest.mark.parametrize("kind", ["create", "return"])
async def test_a_create_or_a_return_waits_for_a_cancel_in_progress_and_is_covered(
    one: Replica, other: Replica, tables: Tables, kind: str
) -> None:
    task, gate = a_task(), asyncio.Event()
    slow = Fickle(other.postgres, gate=gate)
    cancelling = asyncio.create_task(Replica(slow, other.publisher, other.held).ask(a_cancel(task)))
    await slow.at_gate.wait()
    accepting = asyncio.create_task(one.creates(task) if kind == "create" else one.returns(at(task, 1, 2, 1)))
    await until("it to wait for the cancel", tables.someone_waits_for_a_lock)
    gate.set()
    assert (await cancelling).result == "unknown"
    await accepting
    assert ended([event for event in one.told() if event != TaskAccepted(task=task)]) != []
    assert await one.fires(task) == []


async def test_a_cancel_and_its_create_at_once_end_cancelled_a_hundred_times(
    one: Replica, other: Replica, tables: Tables
) -> None:
    results: set[str] = set()
    for n in range(RACES):
        task = a_task(60)
        parties = [other.creates(task), one.ask(a_cancel(task))]
        done = await asyncio.gather(*parties[:: 1 if n % 2 else -1])
        [answer] = [each for each in done if isinstance(each, TaskAnswer)]
        results.add(answer.result)
        events = [*one.told(), *other.told()]
        assert cancelled_after_all(events, task)
        assert await tables.orders(task.id) == []
    assert results <= {"cancelled", "unknown"}


async def test_a_return_and_a_cancel_at_once_end_cancelled_a_hundred_times(
    one: Replica, other: Replica, tables: Tables
) -> None:
    for n in range(RACES):
        task = a_task()
        await other.creates(task)
        await other.fires(task)
        other.told()
        parties = [other.returns(at(task, 1, 2, 1)), one.ask(a_cancel(task))]
        await asyncio.gather(*parties[:: 1 if n % 2 else -1])
        assert ended([*one.told(), *other.told()]) == [(1, 2, 1)]
        assert await tables.orders(task.id) == []


async def test_two_cancels_at_once_from_two_replicas_get_the_same_answer(
    one: Replica, other: Replica, tables: Tables
) -> None:
    for n in range(RACES):
        task = a_task((60, -1)[n % 2])
        await one.creates(task)
        one.told()
        answers = await asyncio.gather(one.ask(a_cancel(task)), other.ask(a_cancel(task)))
        assert [answer.result for answer in answers] == [("cancelled", "left")[n % 2]] * 2
        assert ended([*one.told(), *other.told()]) == [(1, 1, 0)] * 2


async def test_a_cancel_and_a_reschedule_at_once_agree_on_who_was_first(
    one: Replica, other: Replica, tables: Tables
) -> None:
    for n in range(RACES):
        task = a_task(60)
        await one.creates(task)
        commands: list[TaskCommand] = [a_reschedule(task, task.due_at + SECOND), a_cancel(task)]
        commands = commands[:: 1 if n % 2 else -1]
        answers = await asyncio.gather(one.ask(commands[0]), other.ask(commands[1]))
        moved, cancelled = answers if n % 2 else answers[::-1]
        if cancelled.result == "rescheduled":  # it was the older one, and came second
            assert (moved.result, await tables.orders(task.id)) == ("rescheduled", [(2, 1, 0)])
        else:
            assert (moved.result, moved.generation) in (("rescheduled", 2), ("left", None))
            assert (cancelled.result, cancelled.generation) == ("cancelled", moved.generation or 1)
            assert await tables.orders(task.id) == []


async def test_a_fire_and_a_cancel_at_once_never_both_win(one: Replica, other: Replica, tables: Tables) -> None:
    for n in range(RACES):
        task = a_task(due_at=await tables.now() + 0.002 * SECOND)
        await one.creates(task)
        fired, answer = await asyncio.gather(_fires_when_due(other, tables, task, n), one.ask(a_cancel(task)))
        if answer.result == "cancelled":
            assert fired == []
        assert await other.fires(task) == []


async def _fires_when_due(replica: Replica, tables: Tables, task: Task, n: int) -> list[Order]:
    await asyncio.sleep(n % 10 * 0.0005)
    return await replica.fires(task)


async def test_a_row_that_is_locked_for_long_is_waited_for(
    migrated_postgres_url: str, one: Replica, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LOCK_MS", 30)
    task = a_task(60)
    await one.creates(task)
    one.told()
    away = patience.AWAY._value.get()
    async with a_pool(migrated_postgres_url, "impatient") as postgres:
        impatient = Replica(postgres, one.publisher, Held())
        async with in_hand(tables, task):
            asking = asyncio.create_task(impatient.ask(a_cancel(task)))
            await until("two lock timeouts", lambda: patience.AWAY._value.get() >= away + 2)
        assert (await asking).result == "cancelled"
    assert ended(one.told()) == [(1, 1, 0)]


# --- the wheels of two replicas


@dataclass
class Awake:
    """A replica with its alarm running."""

    replica: Replica
    alarm: Alarm
    sent: FakePublisher


@asynccontextmanager
async def awake(replica: Replica) -> AsyncIterator[Awake]:
    sent = FakePublisher()
    alarm = Alarm(replica.store, a_firing(replica.store, sent), SystemClock(), horizon_s=60)
    replica = Replica(replica.postgres, replica.publisher, alarm.hold)  # type: ignore[arg-type]
    stopping = asyncio.Event()
    running = asyncio.create_task(alarm.run(stopping))
    yield Awake(replica, alarm, sent)
    stopping.set()
    await asyncio.wait_for(running, 10)


def dues(*awakes: Awake) -> list[TaskDue]:
    return [due for each in awakes for due in each.sent.sent if isinstance(due, TaskDue)]


async def test_a_wheel_that_holds_the_old_earlier_time_never_fires_early(
    one: Replica, other: Replica, tables: Tables
) -> None:
    async with awake(one) as here, awake(other) as there:
        task = a_task(due_at=await tables.now() + 2 * SECOND)
        await there.replica.creates(task)
        later = task.due_at + SECOND
        assert (await here.replica.ask(a_reschedule(task, later))).result == "rescheduled"
        await until("it to fire", lambda: dues(here, there))
        [due] = dues(here, there)
    assert due.emitted_at >= due.due_at == later
    assert decode_task(due.task).order == (2, 1, 0)
    assert due.emitted_at - due.due_at < OVERDUE, "it was not the wheel"


async def test_a_task_moved_ahead_is_fired_in_time_by_the_replica_that_moved_it(
    one: Replica, other: Replica, tables: Tables
) -> None:
    async with awake(one) as here, awake(other) as there:
        task = a_task(due_at=await tables.now() + 3 * SECOND)
        await there.replica.creates(task)
        sooner = task.due_at - 2 * SECOND
        await here.replica.ask(a_reschedule(task, sooner))
        await until("it to fire", lambda: dues(here, there))
        [due] = dues(here)
        assert due.emitted_at >= due.due_at == sooner
        assert due.emitted_at - due.due_at < OVERDUE, "it was not the wheel"
        await until("the old time to pass", lambda: _is_past(tables, task.due_at + SECOND / 4))
        assert len(dues(here, there)) == 1


async def test_a_wheel_that_holds_a_cancelled_task_wakes_for_nothing(
    one: Replica, other: Replica, tables: Tables
) -> None:
    async with awake(one) as here, awake(other) as there:
        task = a_task(due_at=await tables.now() + 2 * SECOND)
        await there.replica.creates(task)
        assert (await here.replica.ask(a_cancel(task))).result == "cancelled"
        await until("its time to pass", lambda: _is_past(tables, task.due_at + SECOND / 2))
        assert dues(here, there) == []


async def test_run_now_fires_within_a_few_milliseconds(one: Replica, tables: Tables) -> None:
    async with awake(one) as here:
        took: list[float] = []
        for _ in range(20):
            task = a_task(3600)
            await here.replica.creates(task)
            asked_at = await tables.now()
            await here.replica.ask(a_reschedule(task))
            await until("it to fire", lambda: dues(here))
            [due] = [each for each in here.sent.take() if isinstance(each, TaskDue)]
            took.append((due.emitted_at - asked_at).total_seconds())
    assert sorted(took)[10] < 0.05, took


def test_the_ids_of_commands_grow() -> None:
    """The rule of the newest command stands on it."""
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
