"""One seed: some tasks are asked for and some cancelled, while processes and servers come and go."""

import asyncio
import logging
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog

from libs.common import topology
from libs.common.clock import ceil_to_ms
from libs.common.contracts import Call, CancelTask, CreateTask, Event, Task, encode
from tests.simulation.broker import SimPublisher
from tests.simulation.checker import Asked, Record, Report, check
from tests.simulation.processes import World
from tests.simulation.target import TIMEOUT_S, Step
from tests.simulation.world import Life, Luck, Rule, run_virtually

TASKS = 12
ASKED_WITHIN_S, DUE_WITHIN_S, FAULTS_WITHIN_S = 12.0, 15.0, 40.0
PATIENCE_S = 900.0
"""Longer than a task may take: a claim of a dead dispatcher, five attempts, breakers."""
AFTERMATH_S = 40.0
"""In which nothing more may happen."""
ROLES = ("scheduler 1", "scheduler 2", "dispatcher 1", "dispatcher 2")
SCRIPTS: tuple[tuple[Step, ...], ...] = (
    ("200",), ("200",), ("503", "200"), ("503", "503", "200"), ("timeout", "200"), ("slow 200",), ("503",), ("410",),
    ("503", "slow 200"), ("503", "503", "503", "200"), ("long 200",), ("503", "long 200"),
)  # fmt: skip
LADDERS: tuple[tuple[float, ...] | None, ...] = (None, (1.0,), (0.7, 2.0), (), (2.0, 3.3, 1.0))

_event: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class Plan(NamedTuple):
    """One task of the seed."""

    task: Task
    asked_s: float
    is_asked_twice: bool
    cancel_s: float | None


def live(seed: int, *, faults: float = 1.0, broken: Rule | None = None) -> Report:
    """The life of a seed."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    random.seed(seed)  # back-offs have dice of their own
    try:
        return run_virtually(_live(seed, faults, broken))
    finally:
        structlog.configure(**before)


async def _live(seed: int, faults: float, broken: Rule | None) -> Report:
    luck = Luck(seed, faults, broken)
    world, story = World(luck), _Story(luck)
    for role in ROLES:
        world.start(role)
    plans = [_plan(luck, world) for _ in range(TASKS)]
    client = Life("client")
    for plan in plans:
        client.run(story.ask(world, client, plan))
        if plan.cancel_s is not None:
            client.run(story.cancel(world, plan))
    for _ in range(round(luck.dice.uniform(0, 8) * faults)):
        client.run(story.strike(world))
    await _until_over(world, story, len(plans))
    failure = client.failure or next((life.failure for life in world.lives.values() if life.failure), None)
    for role in ROLES:
        world.kill(role)
    client.end()
    await asyncio.sleep(0)
    events = [_event.decode(raw) for raw in world.broker.events]
    record = Record(
        plans={plan.task.id: plan.task for plan in plans},
        asked=story.asked,
        calls=world.target.calls,
        events=events,
        fallback=world.broker.fallback,
        deaths=story.deaths,
        redis_was_away=world.memory.was_ever_away,
    )
    return check(seed, record, failure)


async def _until_over(world: World, story: "_Story", tasks: int) -> None:
    """All that was accepted has ended, for a while; or it is clear that it never will."""
    loop = asyncio.get_running_loop()
    ended: set[UUID] = set()
    read = 0
    while loop.time() < PATIENCE_S:
        await asyncio.sleep(2.0)
        for raw in world.broker.events[read:]:
            event = _event.decode(raw)
            if getattr(event, "state", None) or getattr(event, "outcome", "retry") != "retry":
                ended.add(event.id)  # type: ignore[union-attr]
        read = len(world.broker.events)
        if loop.time() > FAULTS_WITHIN_S and len(story.asked) == tasks and ended >= story.asked.keys():
            break
    await asyncio.sleep(AFTERMATH_S)


def _plan(luck: Luck, world: World) -> Plan:
    dice = luck.dice
    asked_s = dice.uniform(0, ASKED_WITHIN_S)
    created_at = ceil_to_ms(world.tables.time.now() + timedelta(seconds=asked_s))
    due_at = created_at + timedelta(milliseconds=dice.choice([0, dice.randrange(round(DUE_WITHIN_S * 1000))]))
    call = Call(url="http://target.test/", timeout_s=TIMEOUT_S, schedule_s=dice.choice(LADDERS))
    task = Task(
        id=UUID(int=dice.getrandbits(128), version=4),
        project="default",
        created_at=created_at,
        due_at=due_at,
        expires_at=due_at + timedelta(seconds=dice.uniform(0, 10)) if dice.random() < 0.1 else None,
        fingerprint="a",
        call=msgspec.Raw(encode(call)),
    )
    world.target.scripts[task.id] = dice.choice(SCRIPTS)
    cancel_s = asked_s + dice.uniform(-1, DUE_WITHIN_S + 5) if dice.random() < 0.3 else None
    return Plan(task, asked_s, dice.random() < 0.2, cancel_s)


@dataclass
class _Story:
    """What was asked for, what was answered, and who died when."""

    luck: Luck

    def __post_init__(self) -> None:
        self.asked: dict[UUID, Asked] = {}
        self.deaths: list[tuple[str, float]] = []
        self._commands = 0

    async def ask(self, world: World, client: Life, plan: Plan) -> None:
        """Until it is confirmed, which is the 201; and again, as a client does that did not hear of it."""
        await asyncio.sleep(plan.asked_s)
        item = encode(CreateTask(task=plan.task))
        for _ in range(1 + plan.is_asked_twice):
            await SimPublisher(world.broker, self.luck, client).insist(topology.CREATE, item)
            self.asked.setdefault(plan.task.id, Asked())
            await asyncio.sleep(self.luck.dice.uniform(0, 5))

    async def cancel(self, world: World, plan: Plan) -> None:
        """As ingest does: the scheduler, and when it has left there the dispatcher; again until somebody answers."""
        assert plan.cancel_s is not None
        await asyncio.sleep(max(plan.cancel_s, 0.0))
        self._commands += 1
        command = CancelTask(id=plan.task.id, project="default", command_id=UUID(int=self._commands))
        by = "scheduler"
        answer = await self._told(world, by, command)
        if answer == "left":
            by = "dispatcher"
            answer = await self._told(world, by, command)
        asked = self.asked.setdefault(plan.task.id, Asked())
        asked.is_cancel_asked = True
        if answer == "cancelled":
            asked.cancelled_s, asked.cancelled_by = asyncio.get_running_loop().time(), by

    async def _told(self, world: World, role: str, command: CancelTask) -> str:
        while True:
            desk = world.desks[f"{role} {self.luck.dice.choice((1, 2))}"]
            self._commands += 1
            if not desk.life.is_over and world.broker.is_up:
                answer = await desk.ask(command, self._commands)
                if answer is not None:
                    return answer.result
            await asyncio.sleep(0.5)

    async def strike(self, world: World) -> None:
        dice = self.luck.dice
        await asyncio.sleep(dice.uniform(0, FAULTS_WITHIN_S))
        seconds = dice.uniform(0.1, 6.0)
        kind = dice.choice(("kill", "kill", "kill", "kill", "broker", "postgres", "redis"))
        match kind:
            case "broker" if world.broker.is_up:
                await world.broker.go_away(seconds)
            case "postgres" if world.tables.is_up:
                await world.tables.go_away(seconds)
            case "redis" if world.memory.is_up:
                await world.memory.go_away(seconds, and_forget=dice.random() < 0.5)
            case "kill":
                role = dice.choice(ROLES)
                life = world.lives[role]
                if not life.is_over:
                    world.kill(role)
                    self.deaths.append((life.name, asyncio.get_running_loop().time()))
                    await asyncio.sleep(seconds)
                    world.start(role)
