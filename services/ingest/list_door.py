"""The Redis list door: what others push becomes tasks, whoever dies.

    list --take, with an id--> our hash --read--> task --publish--> broker --confirm--> forgotten
                                  |  ^               |
             we die, another adopts  our own strays  +--no task--> rejected list

Everything between the take and the confirm stands in Redis; publishing it again is the same task, which the scheduler
knows. Broker or Redis away: what is in hand waits, and nothing more is taken.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

import structlog
from prometheus_client import Counter, Gauge

from libs.common.clock import Clock
from libs.common.contracts import CreateTask, encode
from libs.common.lifecycle import Backoff, Worker, pause
from libs.common.metrics import REGISTRY
from libs.common.publisher import NotPublished
from libs.common.redis import RedisAway
from libs.common.topology import CREATE, Route
from services.ingest.list_entry import EntryReader
from services.ingest.list_store import LEASE_S, ListStore, Taken
from services.ingest.problems import Problem, bug

LANES = 2
"""While one waits for confirms, the other reads."""
MANY = 500
"""Entries in a lane's hand at most: five packed messages."""
FEW = 16
"""Asked for until the list has shown that it holds more: an id that is not needed costs time too."""
READ_AT_ONCE = 20
"""Entries between two looks at the loop, where requests wait: half a millisecond."""
BEATS_PER_LEASE = 5
NO_BROKER_PAUSE_S = 0.2
REQUESTS_MAX = 16
"""Waiting for the broker: above it a lane lets them go first. 500 requests/s that take 20 ms each are 10."""
YIELD_S, YIELDS_MAX = 0.02, 50
"""But it goes on once a second, so that a busy API does not starve the list."""

TAKEN = Counter("carillon_ingest_list_taken_total", "Entries taken from the Redis list", registry=REGISTRY)
ADOPTED = Counter(
    "carillon_ingest_list_adopted_total",
    "Entries published again, of a replica that died or a step whose answer was lost",
    registry=REGISTRY,
)
PUBLISHED = Counter(
    "carillon_ingest_list_published_total", "Entries whose task the broker has confirmed", registry=REGISTRY
)
REJECTED = Counter(
    "carillon_ingest_list_rejected_total", "Entries moved to the rejected list: they are no task", registry=REGISTRY
)
WAITING = Gauge("carillon_ingest_list_waiting_entries", "Entries in the Redis list", registry=REGISTRY)
HELD = Gauge("carillon_ingest_list_held_entries", "Entries taken and not yet confirmed", registry=REGISTRY)
AWAY = Gauge("carillon_ingest_list_redis_away", "1 while Redis does not answer the list door", registry=REGISTRY)

log = structlog.get_logger(__name__)

Step = Callable[[asyncio.Event], Awaitable[None]]


class PublishesMany(Protocol):
    """The part of `Publisher` that the list needs."""

    @property
    def awaited(self) -> int:
        """Items of requests that wait for their confirm."""

    async def ping(self) -> None:
        """Raises: ConnectionError while a publish would wait."""

    async def publish_many(self, route: Route, items: Sequence[bytes]) -> list[NotPublished | None]:
        """For each item None, or why there is no confirm for it."""


class _Read(NamedTuple):
    id: UUID
    message: bytes


class ListDoor:
    def __init__(
        self, store: ListStore, reader: EntryReader, publisher: PublishesMany, clock: Clock, *, lease_s: float = LEASE_S
    ) -> None:
        self._store = store
        self._reader = reader
        self._publisher = publisher
        self._clock = clock
        self._beat_s = lease_s / BEATS_PER_LEASE
        self._is_away = False

    def workers(self) -> list[Worker]:
        lanes = [_Loop(f"list lane {number}", self._lane(), self) for number in range(1, LANES + 1)]
        return [_Loop("list beats", self._beat, self), _Loop("list strays", self._look, self), *lanes]

    async def leave(self) -> None:
        """After the drain: what is still held goes to another replica at once, or to the next start."""
        try:
            await self._store.leave()
        except RedisAway as error:
            self.note_away(error)

    def note_away(self, error: RedisAway) -> None:
        if not self._is_away:
            log.warning("list.lost", reason=str(error))
        self._is_away = True
        AWAY.set(1)

    def note_back(self) -> None:
        if self._is_away:
            log.info("list.recovered")
        self._is_away = False
        AWAY.set(0)

    async def _beat(self, stopping: asyncio.Event) -> None:
        WAITING.set(await self._store.beat())
        self.note_back()
        await pause(stopping, self._beat_s)

    async def _has_broker(self, stopping: asyncio.Event) -> bool:
        """Else nothing is taken: another replica may be better off. Its link tells of it."""
        try:
            await self._publisher.ping()
        except ConnectionError:
            await pause(stopping, NO_BROKER_PAUSE_S)
            return False
        return True

    async def _after_requests(self, stopping: asyncio.Event) -> None:
        for _ in range(YIELDS_MAX):
            if self._publisher.awaited <= REQUESTS_MAX:
                return
            await pause(stopping, YIELD_S)

    async def _look(self, stopping: asyncio.Event) -> None:
        if not await self._has_broker(stopping):
            return
        await self._store.adopt()
        async with self._store.strays() as strays:
            if strays:
                log.info("list.adopted", entries=len(strays))
            ADOPTED.inc(len(strays))
            for start in range(0, len(strays), MANY):
                await self._settle(strays[start : start + MANY], stopping)
        await pause(stopping, self._beat_s)

    def _lane(self) -> Step:
        at_most = FEW

        async def lane(stopping: asyncio.Event) -> None:
            nonlocal at_most
            if not await self._has_broker(stopping):
                return
            await self._after_requests(stopping)
            async with self._store.taking(at_most) as taken:
                TAKEN.inc(len(taken))
                await self._settle(taken, stopping)
            at_most = MANY if len(taken) >= FEW else FEW
            if not taken:
                await self._store.wait()

        return lane

    async def _settle(self, taken: Sequence[Taken], stopping: asyncio.Event) -> None:
        """Until each is a task of the broker's, or rejected; or until `stopping` and a try that failed."""
        HELD.inc(len(taken))
        try:
            tasks, rejects = await self._read(taken)
            if rejects:
                await self._insist(lambda: self._count_rejected(rejects), stopping)
            await self._publish(tasks, stopping)
        finally:
            HELD.dec(len(taken))

    async def _read(self, taken: Sequence[Taken]) -> tuple[list[_Read], list[tuple[UUID, bytes]]]:
        tasks: list[_Read] = []
        rejects: list[tuple[UUID, bytes]] = []
        for number, (id_, entry) in enumerate(taken, start=1):
            try:
                tasks.append(_Read(id_, encode(CreateTask(task=self._reader.task(id_, entry)))))
            except Problem as problem:
                rejects.append((id_, self._rejected(id_, entry, problem)))
            except Exception:
                # One entry that our code cannot bear must not stop the others, nor kill one replica after the other.
                log.exception("entry.crashed", task_id=str(id_))
                rejects.append((id_, self._rejected(id_, entry, bug())))
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)
        return tasks, rejects

    def _rejected(self, id_: UUID, entry: bytes, problem: Problem) -> bytes:
        log.debug("entry.rejected", task_id=str(id_), code=problem.code)
        return self._reader.rejected(entry, problem, self._clock.now())

    async def _count_rejected(self, rejects: Sequence[tuple[UUID, bytes]]) -> None:
        rejected = await self._store.reject(rejects)
        REJECTED.inc(rejected)
        log.warning("entries.rejected", entries=rejected)

    async def _publish(self, tasks: list[_Read], stopping: asyncio.Event) -> None:
        backoff = Backoff(first_s=0.05, cap_s=1.0)
        while tasks:
            answers = await self._publisher.publish_many(CREATE, [task.message for task in tasks])
            done = [task.id for task, error in zip(tasks, answers, strict=True) if error is None]
            if done:
                await self._insist(lambda done=done: self._store.confirmed(done), stopping)  # type: ignore[misc]
                PUBLISHED.inc(len(done))
            failed = [(task, error) for task, error in zip(tasks, answers, strict=True) if error is not None]
            tasks = [task for task, _error in failed]
            if failed and backoff.is_fresh:
                log.warning("entries.held", entries=len(failed), reason=str(failed[0][1]))
            if failed and await pause(stopping, backoff.next()):
                return

    async def _insist(self, ask: Callable[[], Awaitable[None]], stopping: asyncio.Event) -> None:
        """Until Redis has done it; what it has not when we stop is published again, as the same task."""
        backoff = Backoff(first_s=0.1, cap_s=2.0)
        while True:
            try:
                return await ask()
            except RedisAway as error:
                self.note_away(error)
                if await pause(stopping, backoff.next()):
                    return None


class _Loop:
    """A worker: a step of the door again and again, with pauses while Redis is away."""

    def __init__(self, name: str, step: Step, door: ListDoor) -> None:
        self.name = name
        self._step = step
        self._door = door

    async def run(self, stopping: asyncio.Event) -> None:
        backoff = Backoff(first_s=0.1, cap_s=2.0)
        while not stopping.is_set():
            try:
                await self._step(stopping)
                backoff.reset()
            except RedisAway as error:
                self._door.note_away(error)
                await pause(stopping, backoff.next())
