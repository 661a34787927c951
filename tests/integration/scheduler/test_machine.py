"""Any history of one id, against a model: creates, commands, returns, fires, deaths, and two things at once.

Postgres' clock is one that the test moves: `clock_timestamp` of the schema `test_clock`, which stands before
pg_catalog in the search path. So time passes by hours and no history depends on how fast it runs.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from libs.common import postgres as patience
from libs.common.contracts import (
    AnyMessage,
    CancelTask,
    CreateTask,
    RescheduleTask,
    ReturnTask,
    Task,
    TaskAccepted,
    TaskDue,
    TaskFinished,
    decode_task,
)
from libs.common.postgres import Postgres, PostgresAway, postgres_pool
from libs.common.publisher import PublishUnknown, Refused
from libs.common.topology import Route
from services.scheduler.store import OVERDUE, Store
from tests.integration.scheduler.asker import Asking, Fickle, Killed
from tests.integration.scheduler.rig import (
    SECOND,
    FakePublisher,
    Held,
    Order,
    Tables,
    a_firing,
    a_task,
    an_acceptor,
    at,
    bystander,
    until,
)

SEQUENCES = 500
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
HOUR_S = 3600
Told = tuple[Any, ...]
Answer = tuple[str, int | None, datetime | None]
Message = CreateTask | ReturnTask | CancelTask | RescheduleTask
Outcome = tuple[list[AnyMessage], Answer | None]
Said = tuple[list[Told], Answer | None]

Death = Literal["rollback", "answer lost", "unpublished"]
DEATHS = st.sampled_from([None, None, None, "rollback", "answer lost", "unpublished"])
Ending = Literal["rollback", "answer lost", "refused", "unconfirmed"]
ENDINGS = st.sampled_from([None, None, None, "rollback", "answer lost", "refused", "unconfirmed"])
Kind = Literal["redrive", "return", "cancel", "reschedule", "run"]
KINDS = st.sampled_from(list[Kind](get_args(Kind)))
IN_S = st.sampled_from([-HOUR_S, 0, 1, HOUR_S, 5 * HOUR_S])


# --- the rules, in words of their own


@dataclass
class Waiting:
    order: Order
    due_at: datetime
    task: Task
    newest: UUID | None = None


@dataclass
class Cancel:
    generation: int
    result: str
    met_a_row: bool


@dataclass
class Model:
    """What should stand under one id, and what should be said about it."""

    now: datetime = NOON
    row: Waiting | None = None
    gone: list[Order] = field(default_factory=list)
    moves_gone: set[UUID] = field(default_factory=set)
    cancels: dict[UUID, Cancel] = field(default_factory=dict)

    def take(self, message: Message) -> tuple[list[Told], Answer | None]:
        match message:
            case CreateTask(task=task):
                covered = self._accept(task, task.due_at)
                standing = self.row.task if self.row else task
                return [("accepted", standing.order, standing.due_at), *covered], None
            case ReturnTask(task=task, not_before=not_before):
                return self._accept(task, not_before), None
            case CancelTask():
                return self._cancel(message)
            case RescheduleTask():
                return self._move(message)

    def _accept(self, task: Task, due_at: datetime) -> list[Told]:
        if self.row is not None:
            if task.order > self.row.order:
                self.row = Waiting(task.order, due_at, task, self.row.newest)
            return []
        has_gone = any(order >= task.order for order in self.gone)
        is_cancelled = any(cancel.generation >= task.generation for cancel in self.cancels.values())
        if not has_gone and not is_cancelled:
            self.row = Waiting(task.order, due_at, task)
        return [("cancelled", task.generation)] if is_cancelled and not has_gone else []

    def _cancel(self, command: CancelTask) -> tuple[list[Told], Answer]:
        row, known = self.row, self.cancels.get(command.command_id)
        if row and row.newest and row.newest > command.command_id:
            return [], ("rescheduled", row.order[0], None)
        if known is None:
            known = self._cancelled(row, command.generation) if row else self._noted(command.generation)
            self.cancels[command.command_id] = known
            self.row = None
        told: list[Told] = [("cancelled", known.generation)] if known.met_a_row else []
        return told, (known.result, known.generation, None)

    def _cancelled(self, row: Waiting, generation: int) -> Cancel:
        is_certain = row.order[1:] == (1, 0) and row.due_at > self.now
        return Cancel(max(generation, row.order[0]), "cancelled" if is_certain else "left", True)

    def _noted(self, generation: int) -> Cancel:
        known = [*self.cancels.values()]
        generation = max([generation, *(order[0] for order in self.gone), *(cancel.generation for cancel in known)])
        if same := [cancel for cancel in known if cancel.generation == generation and cancel.met_a_row]:
            return same[0]
        has_trace = self.gone or any(cancel.met_a_row for cancel in known)
        return Cancel(generation, "left" if has_trace else "unknown", False)

    def _move(self, command: RescheduleTask) -> tuple[list[Told], Answer]:
        row, has_trace = self.row, bool(self.gone or self.cancels)
        if row is None:
            return [], ("left" if has_trace else "unknown", None, None)
        if command.command_id in self.moves_gone:
            return [], ("left", None, None)
        if row.newest is None or row.newest < command.command_id:
            if row.due_at <= self.now or row.order[1:] != (1, 0):
                return [], ("left", None, None)
            due_at = max(command.due_at or self.now, self.now)
            task = msgspec.structs.replace(row.task, generation=row.order[0] + 1, due_at=due_at)
            row = self.row = Waiting(task.order, due_at, task, command.command_id)
        task = row.task
        return [("accepted", task.order, task.due_at)], ("rescheduled", task.generation, task.due_at)

    def fire(self, *, is_swept: bool, ending: Ending | None) -> list[Told]:
        row = self.row
        if row is None or (row.due_at >= self.now - OVERDUE if is_swept else row.due_at > self.now):
            return []
        is_expired = row.task.expires_at is not None and row.task.expires_at <= self.now
        if ending in (None, "answer lost"):
            self.gone.append(row.order)
            self.moves_gone |= {row.newest} if row.newest else set()
            self.row = None
        if ending == "refused":
            return []
        leaves: Told = ("expired", row.order) if is_expired else ("due", row.order, row.due_at)
        if row.newest is None or row.order[1:] != (1, 0):
            return [leaves]
        moved: Told = ("accepted", row.order, row.due_at)  # should its command have died before it told
        return [moved] if ending == "unconfirmed" else [moved, leaves]


# --- one scheduler, that dies as told


class Mortal(FakePublisher):
    """`ending` is what becomes of what it is given."""

    ending: str | None = None

    async def publish(self, route: Route, item: bytes) -> None:
        if self.ending == "unpublished":
            raise Killed
        if self.ending == "refused":
            raise Refused("full")
        await super().publish(route, item)
        if self.ending == "unconfirmed":
            raise PublishUnknown("no confirm")


class Scheduler:
    def __init__(self, postgres: Postgres, gate: asyncio.Event | None = None) -> None:
        self.postgres, self.publisher, self.held = Fickle(postgres, gate=gate), Mortal(), Held()
        self._store = Store(self.postgres)
        self._acceptor = an_acceptor(self._store, self.publisher, self.held)
        self._asking = Asking(self.postgres, self.publisher, self.held)

    async def take(self, message: Message, death: Death | None) -> Outcome:
        """What it published, and what it answered; raises Killed."""
        self._dies(death)
        match message:
            case CreateTask():
                await self._acceptor.creates([message])
            case ReturnTask():
                await self._acceptor.returns([message])
            case _:
                answer = await self._asking(message)
                assert (answer.id, answer.command_id) == (message.id, message.command_id)
                return self.publisher.take(), (answer.result, answer.generation, answer.due_at)
        return self.publisher.take(), None

    async def fire(self, id_: UUID, *, is_swept: bool, ending: Ending | None) -> list[AnyMessage]:
        self._dies(ending)
        firing = a_firing(self._store, self.publisher)
        try:
            await (firing.fire_overdue() if is_swept else firing.fire_these([id_]))
        except (Killed, PostgresAway):
            assert ending in ("rollback", "answer lost")
        return self.publisher.take()

    def _dies(self, how: str | None) -> None:
        self.postgres.ending = how if how in ("rollback", "answer lost") else None  # type: ignore[assignment]
        self.publisher.ending = how


def told(events: Sequence[AnyMessage]) -> list[Told]:
    """What the model has words for; a cancel told again may know less of the attempt."""
    words: list[Told] = []
    for event in events:
        match event:
            case TaskAccepted(task=task):
                words.append(("accepted", task.order, task.due_at))
            case TaskFinished(state="cancelled"):
                words.append(("cancelled", event.generation))
            case TaskFinished():
                words.append(("expired", (event.generation, event.attempt, event.hop)))
            case TaskDue():
                words.append(("due", decode_task(event.task).order, event.due_at))
            case _:
                raise AssertionError(event)
    return sorted(words)


def said(outcome: Outcome) -> Said:
    return told(outcome[0]), outcome[1]


# --- what must hold whatever the model says


@dataclass
class Ledger:
    """What a client could complain about, kept from what was published and answered alone."""

    wanted: dict[int, datetime] = field(default_factory=dict)
    is_safe_until: int = 0
    out: dict[Order, int] = field(default_factory=dict)
    doubtful: dict[Order, int] = field(default_factory=dict)
    final: set[int] = field(default_factory=set)

    def hears(self, events: Sequence[AnyMessage], now: datetime) -> None:
        for event in events:
            if isinstance(event, TaskAccepted):
                self.wanted[event.task.generation] = event.task.due_at
            if isinstance(event, TaskFinished):
                self.final.add(event.generation)
            if isinstance(event, TaskDue):
                self._leaves(event, now)

    def _leaves(self, due: TaskDue, now: datetime) -> None:
        task = decode_task(due.task)
        assert due.due_at <= due.emitted_at == now, "never early"
        assert task.generation > self.is_safe_until, "never after an answered cancel"
        assert task.attempt > 1 or task.hop > 0 or due.due_at == task.due_at, "at the time that was wanted"
        assert self.wanted.get(task.generation, task.due_at) == task.due_at, "at the time that was told"
        self.out[task.order] = self.out.get(task.order, 0) + 1
        assert self.out[task.order] <= 1 + self.doubtful.get(task.order, 0), "twice only where nobody knew of the once"
        self.final.add(task.generation)

    def is_in_doubt(self, events: Sequence[AnyMessage]) -> None:
        for event in events:
            if isinstance(event, TaskDue):
                order = decode_task(event.task).order
                self.doubtful[order] = self.doubtful.get(order, 0) + 1

    def answered(self, message: Message, answer: Answer | None) -> None:
        if isinstance(message, CancelTask) and answer is not None and answer[0] != "rescheduled":
            self.is_safe_until = max(self.is_safe_until, answer[1] or 0)


class World:
    """The database with its clock, and the loop that all of it runs on."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], postgres: Postgres, tables: Tables) -> None:
        self.run, self.postgres, self.tables = run, postgres, tables

    def set_clock(self, now: datetime) -> None:
        self.run(self.tables.connection.execute("UPDATE test_clock.clock SET moment = $1", now))


def machine_of(world: World) -> type[RuleBasedStateMachine]:
    class OneId(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            world.run(world.tables.empty())
            world.set_clock(NOON)
            self.id, self.model, self.ledger = uuid4(), Model(), Ledger()
            self.scheduler = Scheduler(world.postgres)
            self.messages: list[Message] = []
            self.unsettled: list[Message] = []
            self.left: list[TaskDue] = []
            self.command = 0

        # --- what can come

        @rule(in_s=IN_S, lives_s=st.sampled_from([None, None, 2 * HOUR_S]), death=DEATHS)
        @precondition(lambda self: not self.messages or not isinstance(self.messages[0], CreateTask))
        def creates(self, in_s: int, lives_s: int | None, death: Death | None) -> None:
            due_at = self.model.now + in_s * SECOND
            expires_at = None if lives_s is None else due_at + lives_s * SECOND
            task = a_task(id=self.id, created_at=NOON, due_at=due_at, expires_at=expires_at)
            self.messages.insert(0, CreateTask(task=task))
            self.comes(self.messages[0], death)

        @rule(kind=KINDS, in_s=IN_S, variant=st.integers(0, 99), death=DEATHS)
        def comes_anew(self, kind: Kind, in_s: int, variant: int, death: Death | None) -> None:
            if message := self.made(kind, in_s, variant):
                self.comes(message, death)

        def made(self, kind: Kind, in_s: int, variant: int) -> Message | None:
            """A message as its sender would make it now; None where nobody could."""
            message: Message | None = None
            when, is_old = self.model.now + in_s * SECOND, variant % 3 == 0
            match kind:
                case "redrive" if self.messages and isinstance(self.messages[0], CreateTask):
                    task = at(self.messages[0].task, 1 + max([*self.generations(), *self.ledger.wanted]), 1, 0)
                    message = CreateTask(task=msgspec.structs.replace(task, due_at=when))
                case "return" if self.left:
                    task = decode_task(self.left[variant % len(self.left)].task)
                    back = at(task, task.generation, task.attempt + variant % 2, task.hop + 1)
                    message = ReturnTask(task=back, not_before=when, reason="full")
                case "cancel":
                    known = max([1, *self.generations()])
                    generation = (1, known, known + 1)[variant // 3 % 3]  # the last one: of a redrive still on its way
                    command_id = self.command_id(is_old=is_old)
                    message = CancelTask(id=self.id, project="acme", command_id=command_id, generation=generation)
                case "reschedule" | "run":
                    due_at = when if kind == "reschedule" else None
                    command_id = self.command_id(is_old=is_old)
                    message = RescheduleTask(id=self.id, project="acme", command_id=command_id, due_at=due_at)
            if message is not None:
                self.messages.append(message)
            return message

        @rule(which=st.integers(0, 99), death=DEATHS)
        @precondition(lambda self: self.messages)
        def comes_again(self, which: int, death: Death | None) -> None:
            self.comes(self.messages[which % len(self.messages)], death)

        @rule(is_cancel=st.booleans())
        def a_stranger_asks(self, is_cancel: bool) -> None:
            kind = CancelTask if is_cancel else RescheduleTask
            command = kind(id=self.id, project="stranger", command_id=self.command_id(is_old=False))
            events, answer = world.run(self.scheduler.take(command, None))
            assert events == []
            assert answer is not None
            assert answer[0] in ("unknown", "left" if not is_cancel else "unknown")

        @rule(is_swept=st.booleans(), ending=ENDINGS)
        def fires(self, is_swept: bool, ending: Ending | None) -> None:
            events = world.run(self.scheduler.fire(self.id, is_swept=is_swept, ending=ending))
            assert told(events) == self.model.fire(is_swept=is_swept, ending=ending)
            self.heard(events, is_doubtful=ending in ("rollback", "unconfirmed"))

        @rule(by_s=st.sampled_from([1, 4, HOUR_S, 6 * HOUR_S]))
        def time_passes(self, by_s: int) -> None:
            self.model.now += by_s * SECOND
            world.set_clock(self.model.now)

        @rule(first=KINDS | st.none(), second=KINDS, in_s=IN_S, variant=st.integers(0, 99), is_again=st.booleans())
        @precondition(lambda self: self.messages)
        def two_come_at_once(self, first: Kind | None, second: Kind, in_s: int, variant: int, is_again: bool) -> None:
            earlier = self.messages[variant % len(self.messages)]
            one = earlier if is_again else self.made(first, in_s, variant) if first else None
            self.overlap(one, self.made(second, in_s, variant) or earlier)

        @rule(in_s=IN_S, variant=st.sampled_from([4, 7]))  # the asker knows the redrive, or has just asked for another
        @precondition(lambda self: isinstance(self.messages[0], CreateTask) if self.messages else False)
        def a_cancel_meets_its_create(self, in_s: int, variant: int) -> None:
            create, cancel = self.made("redrive", in_s, variant), self.made("cancel", in_s, variant)
            assert cancel is not None
            self.overlap(create, cancel)

        def overlap(self, first: Message | None, second: Message) -> None:
            """The first one's commit is held up; the second waits for it, or the order is nobody's business."""
            one, two, has_waited = world.run(self.at_once(first, second))
            model, outcomes = self.expected([first, second])
            if not has_waited and outcomes != [said(one), said(two)]:
                model, outcomes = self.expected([second, first])
                outcomes.reverse()
            assert outcomes == [said(one), said(two)]
            self.model = model
            for message, (events, answer) in ((first, one), (second, two)):
                self.heard(events)
                if message is not None:
                    self.ledger.answered(message, answer)

        def expected(self, messages: Sequence[Message | None]) -> tuple[Model, list[Said]]:
            """After these, one by one; None is a fire."""
            model, outcomes = deepcopy(self.model), list[Said]()
            for message in messages:
                if message is None:
                    outcomes.append((model.fire(is_swept=False, ending=None), None))
                else:
                    events, answer = model.take(message)
                    outcomes.append((sorted(events), answer))
            return model, outcomes

        # --- how it is handed over, and checked

        def comes(self, message: Message, death: Death | None) -> None:
            try:
                outcome = world.run(self.scheduler.take(message, death))
            except Killed:
                self.unsettled.append(message)
                if death == "unpublished":
                    self.model.take(message)  # committed, and nobody heard of it
                return
            if death == "answer lost":
                self.model.take(message)  # the first time
            self.take_as_told(message, outcome)
            if self.model.row is not None and not isinstance(message, CancelTask):
                self.the_wheel_knows(message)

        def take_as_told(self, message: Message, outcome: Outcome) -> None:
            events, answer = outcome
            self.model, [expected] = self.expected([message])
            assert said(outcome) == expected
            self.heard(events)
            self.ledger.answered(message, answer)

        def the_wheel_knows(self, message: Message) -> None:
            row, held = self.model.row, self.scheduler.held
            assert row is not None
            has_moved = not isinstance(message, RescheduleTask) or row.newest == message.command_id
            if has_moved or self.id in held.dues:
                assert held.dues.get(self.id) == row.due_at

        async def at_once(self, first: Message | None, second: Message) -> tuple[Outcome, Outcome, bool]:
            gate = asyncio.Event()
            slow, other = Scheduler(world.postgres, gate), Scheduler(world.postgres)
            holding = asyncio.ensure_future(self.fire_alone(slow) if first is None else slow.take(first, None))
            await slow.postgres.at_gate.wait()
            waiting = asyncio.ensure_future(other.take(second, None))
            await until("it to end or to wait", lambda: self.ends_or_waits(waiting))
            has_waited = not waiting.done()
            gate.set()
            one, two = await holding, await waiting
            self.scheduler.held.dues |= slow.held.dues | other.held.dues
            return one, two, has_waited

        async def fire_alone(self, scheduler: Scheduler) -> Outcome:
            return await scheduler.fire(self.id, is_swept=False, ending=None), None

        async def ends_or_waits(self, task: "asyncio.Task[Outcome]") -> bool:
            return task.done() or await world.tables.someone_waits_for_a_lock()

        def heard(self, events: Sequence[AnyMessage], *, is_doubtful: bool = False) -> None:
            if is_doubtful:
                self.ledger.is_in_doubt(events)
            self.ledger.hears(events, self.model.now)
            self.left += [event for event in events if isinstance(event, TaskDue)]

        def generations(self) -> Iterator[int]:
            yield from (message.task.generation for message in self.messages if isinstance(message, CreateTask))
            yield from self.ledger.wanted

        def command_id(self, *, is_old: bool) -> UUID:
            """Old ones were made before the newest one, and come after it."""
            self.command += 1
            return UUID(int=(self.command if is_old else self.command + 10) * 1000 + self.command)

        def teardown(self) -> None:
            """In the end all that died on its way has come again, all times have passed, and nothing is missing."""
            if not hasattr(self, "model"):
                return
            for message in self.unsettled:
                self.comes(message, None)
            self.time_passes(1000 * HOUR_S)
            self.fires(is_swept=True, ending=None)
            assert world.run(world.tables.orders(self.id)) == []
            accepted = [message.task.generation for message in self.messages if isinstance(message, CreateTask)]
            if accepted:
                newest = max(*accepted, *self.ledger.wanted)
                assert max(self.ledger.final, default=0) >= newest, "every task ends"

    return OneId


CLOCK = """
    CREATE SCHEMA test_clock;
    CREATE TABLE test_clock.clock AS SELECT now() AS moment;
    CREATE FUNCTION test_clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS 'SELECT moment FROM test_clock.clock';
    GRANT USAGE ON SCHEMA test_clock TO carillon_scheduler;
    GRANT SELECT ON test_clock.clock TO carillon_scheduler;
"""
SEARCH_PATH = "test_clock, scheduler, pg_catalog"


def test_any_history_of_one_task_obeys_the_rules(migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "AWAY_FIRST_S", 0.001)
    with asyncio.Runner() as runner:
        run = runner.run
        look = bystander(migrated_postgres_url)
        tables = run(look.__aenter__())
        run(tables.connection.execute(CLOCK))
        pool = postgres_pool(
            migrated_postgres_url, role="carillon_scheduler", schema=SEARCH_PATH, application_name="machine"
        )
        world = World(run, run(pool.__aenter__()), tables)
        try:
            run_state_machine_as_test(
                machine_of(world),
                settings=settings(
                    max_examples=SEQUENCES, stateful_step_count=20, database=None,
                    phases=[Phase.generate], report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
                ),
            )  # fmt: skip
        finally:
            run(pool.__aexit__(None, None, None))
            run(tables.connection.execute("DROP SCHEMA test_clock CASCADE"))
            run(look.__aexit__(None, None, None))
