"""The two services, put together as their __main__ does, on fakes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

from libs.common import topology
from libs.common.asking import Asked
from libs.common.clock import Clock
from libs.common.contracts import CancelAnswer, CancelTask, CreateTask, ReturnTask, TaskAnswer, TaskDue
from services.dispatcher.attempt import Attempts
from services.dispatcher.commands import Commands as DispatcherCommands
from services.dispatcher.delivery import Delivery
from services.dispatcher.gate import Gate
from services.dispatcher.lanes import Lanes
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Ladder
from services.dispatcher.signature import Signer
from services.scheduler.accept import Acceptor
from services.scheduler.alarm import Alarm
from services.scheduler.commands import TaskCommands
from services.scheduler.fire import Firing
from services.scheduler.lateness import Causes
from services.scheduler.sweep import Sweeper
from tests.simulation.broker import Broker, Delivered, SimPublisher
from tests.simulation.postgres import SimStore, Tables
from tests.simulation.redis import Memory, SimMarks
from tests.simulation.target import SimCaller, Target
from tests.simulation.world import Life, Luck, Time

HORIZON_S = 10.0
RUNGS_S = (1.0, 2.0, 5.0)
SLOTS = 8

_create = msgspec.json.Decoder(CreateTask).decode
_return = msgspec.json.Decoder(ReturnTask).decode
_due = msgspec.json.Decoder(TaskDue).decode


class World:
    """All that outlives a process."""

    def __init__(self, luck: Luck) -> None:
        self.luck = luck
        self.broker = Broker(luck, RUNGS_S)
        self.tables = Tables(luck)
        self.memory = Memory(luck)
        self.target = Target()
        self.lives: dict[str, Life] = {}
        self.desks: dict[str, Desk] = {}
        self._born = 0

    def start(self, role: str) -> None:
        """A process of that role ("scheduler" or "dispatcher", with a number), with a clock of its own."""
        self._born += 1
        life = Life(f"{role}#{self._born}")
        clock = Time(self.luck.dice.uniform(-0.2, 0.2))
        self.lives[role] = life
        begin = scheduler if role.startswith("scheduler") else dispatcher
        self.desks[role] = begin(self, life, clock)

    def kill(self, role: str) -> None:
        life = self.lives[role]
        life.end()
        self.tables.lose(life)
        self.broker.lose(life)


class Desk:
    """Where a process takes commands, with its way to reply. `handle` is given once it can be made."""

    handle: Callable[[Asked[Any]], Awaitable[None]]

    def __init__(self, life: Life) -> None:
        self.life = life
        self._answers: dict[str, TaskAnswer | CancelAnswer] = {}

    async def reply(self, asked: Asked[Any], answer: TaskAnswer | CancelAnswer) -> None:
        self.life.check()
        self._answers[asked.correlation_id] = answer

    async def ask(self, command: CancelTask, number: int) -> TaskAnswer | CancelAnswer | None:
        """None when it died over it; ask again."""
        asked = Asked(command, "", str(number))
        self.life.run(_awaited(self.handle(asked)))
        for _ in range(50):
            await asyncio.sleep(0.1)
            if str(number) in self._answers:
                return self._answers.pop(str(number))
        return None


def scheduler(world: World, life: Life, clock: Clock) -> Desk:
    publisher = cast("Any", SimPublisher(world.broker, world.luck, life))
    store = cast("Any", SimStore(world.tables, life))
    firing = Firing(store, publisher, Causes(clock.now()), clock)
    alarm = Alarm(store, firing, clock, horizon_s=HORIZON_S)
    acceptor = Acceptor(store, publisher, alarm.hold, clock)
    desk = Desk(life)
    desk.handle = TaskCommands(store, publisher, cast("Any", desk), alarm.hold, clock).handle

    async def feed(queue: str, decode: Callable[[bytes], Any], handle: Callable[[Any], Awaitable[None]]) -> None:
        while True:
            taken = await world.broker.take(queue, life, most=20)
            await handle([decode(each.item) for each in taken])
            for each in taken:
                world.broker.ack(each, life)

    never = asyncio.Event()
    life.run(feed(topology.SCHEDULER_TASKS, _create, acceptor.creates))
    life.run(feed(topology.SCHEDULER_RETURNS, _return, acceptor.returns))
    life.run(alarm.run(never))
    life.run(Sweeper(store, firing).run(never))
    return desk


def dispatcher(world: World, life: Life, clock: Clock) -> Desk:
    publisher = cast("Any", SimPublisher(world.broker, world.luck, life))
    sim_marks = SimMarks(world.memory, life)
    marks = cast("Any", sim_marks)
    ladder = Ladder(RUNGS_S, world.luck.dice.random)
    outlet = Outlet(publisher, clock, life.name)
    attempts = Attempts(SimCaller(world.target, life, cast("Time", clock)), _signer(), ladder, clock, life.name)
    lanes = Lanes(SLOTS, SLOTS, clock.monotonic, world.luck.dice.random)
    gate = Gate(cast("Any", _NoRules()), lanes, cast("Any", None), clock)
    delivery = Delivery(gate, marks, attempts, ladder, outlet, publisher, clock)
    desk = Desk(life)
    desk.handle = DispatcherCommands(cast("Any", None), marks, outlet, cast("Any", desk), clock).handle
    slots = asyncio.Semaphore(SLOTS)

    async def one(delivered: Delivered) -> None:
        try:
            if world.luck.broken == "ack after all of it":
                world.broker.ack(delivered, life)
            await delivery.handle(_due(delivered.item))
            world.broker.ack(delivered, life)
        finally:
            slots.release()

    async def feed(queue: str) -> None:
        while True:
            await slots.acquire()
            for delivered in await world.broker.take(queue, life):
                life.run(one(delivered))

    life.run(sim_marks.run())
    life.run(feed(topology.DISPATCHER_DUE))
    life.run(feed(topology.DISPATCHER_RETRY_DUE))
    return desk


async def _awaited(work: Awaitable[None]) -> None:
    await work


class _NoRules:
    def target(self, _project: str, _host: str) -> None:
        return None


def _signer() -> Signer:
    return cast("Signer", _Unsigned())


class _Unsigned:
    def headers(self, *_: object) -> tuple[tuple[str, str], ...]:
        return ()
