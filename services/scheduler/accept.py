"""Takes creates and returns into the table: commit, wheel, publish, and only then may the consumer ack.

A redelivery finds the row or its tombstone and publishes the same event again. Of a return nobody hears, unless a
cancel was here before it.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import structlog
from prometheus_client import Counter

from libs.common import topology
from libs.common.clock import Clock
from libs.common.contracts import CreateTask, ReturnTask, Task, TaskAccepted, TaskConflict, decode_task, encode
from libs.common.intake import Poison
from libs.common.metrics import REGISTRY
from libs.common.postgres import until_available
from libs.common.publisher import Publisher
from services.scheduler.commands import cancelled_event
from services.scheduler.store import Accepted, BadRow, Row, Store

ACCEPTED = Counter(
    "carillon_scheduler_accepted_total", "Tasks taken in, by kind and result", ["kind", "result"], registry=REGISTRY
)

Hold = Callable[[UUID, datetime], None]
M = TypeVar("M", CreateTask, ReturnTask)

log = structlog.get_logger(__name__)


class Acceptor:
    """`hold(id, due_at)` tells the wheel of what has been committed."""

    def __init__(self, store: Store, publisher: Publisher, hold: Hold, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._hold = hold
        self._clock = clock

    async def creates(self, messages: Sequence[CreateTask]) -> None:
        while messages:
            given = _newest(messages)
            # Others are taken as if they had come later: they may conflict, or it was the first one that did.
            same, messages = _by_request(messages, given)
            await self._creates(same, given)

    async def _creates(self, messages: Sequence[CreateTask], given: Mapping[UUID, CreateTask]) -> None:
        rows = [_row(message.task, message.task.due_at) for message in given.values()]
        accepted = await self._accept(rows, "create", len(messages))
        events = [_event(message.task, given[message.task.id].task, accepted) for message in messages]
        await self._tell([*events, *self._cancels(given, accepted)])

    async def returns(self, messages: Sequence[ReturnTask]) -> None:
        given = _newest(messages)
        rows = [_row(message.task, message.not_before) for message in given.values()]
        accepted = await self._accept(rows, "return", len(messages))
        await self._tell(self._cancels(given, accepted))

    def _cancels(self, given: Mapping[UUID, CreateTask | ReturnTask], accepted: Accepted) -> list[bytes]:
        """Ends by a cancel that came first: nobody after us will hear of these tasks.

        Of a return another copy may be out there, as of what was due when its cancel came.
        """
        now = self._clock.now()
        return [
            cancelled_event(
                id_,
                given[id_].task.project,
                given[id_].task.order,
                now,
                has_left=earlier.has_left or isinstance(given[id_], ReturnTask),
            )
            for id_, earlier in accepted.earlier.items()
            if earlier.is_cancelled
        ]

    async def _tell(self, events: Sequence[bytes]) -> None:
        await self._publisher.insist_many(topology.TASK_EVENT, events)

    async def _accept(self, rows: Sequence[Row], kind: str, messages: int) -> Accepted:
        try:
            accepted = await until_available(lambda: self._store.accept(rows))
        except BadRow as error:
            if len(rows) == 1:
                raise Poison(f"Postgres refuses it: {error}") from error
            raise
        for row in rows:
            if row.id in accepted.held:
                self._hold(row.id, row.due_at)
        for task_id, earlier in accepted.earlier.items():
            if earlier.due_at is not None:  # it may be ours, of a commit whose answer was lost
                self._hold(task_id, earlier.due_at)
        ACCEPTED.labels(kind, "held").inc(len(accepted.held))
        ACCEPTED.labels(kind, "known").inc(messages - len(accepted.held))
        return accepted


def _newest(messages: Sequence[M]) -> dict[UUID, M]:
    """One message per id: the highest order, the first of equals, and never another request than the first one."""
    newest: dict[UUID, M] = {}
    for message in messages:
        known = newest.setdefault(message.task.id, message)
        if message.task.fingerprint == known.task.fingerprint and message.task.order > known.task.order:
            newest[message.task.id] = message
    return newest


def _by_request(
    messages: Sequence[CreateTask], given: Mapping[UUID, CreateTask]
) -> tuple[list[CreateTask], list[CreateTask]]:
    """Those that ask for the same as the one given under their id, and those that ask for something else."""
    same: list[CreateTask] = []
    others: list[CreateTask] = []
    for message in messages:
        is_same = message.task.fingerprint == given[message.task.id].task.fingerprint
        (same if is_same else others).append(message)
    return same, others


def _row(task: Task, due_at: datetime) -> Row:
    return Row(task.id, *task.order, due_at, task.expires_at, task.project, task.fingerprint, encode(task))


def _event(task: Task, given: Task, accepted: Accepted) -> bytes:
    """What the history hears of one create: the task that stands under its id, or that it is another one."""
    earlier = accepted.earlier.get(task.id)
    if earlier is None:
        return encode(TaskAccepted(task=given))
    if earlier.fingerprint and task.fingerprint != earlier.fingerprint:
        log.warning("create.conflicts", task_id=str(task.id), project=task.project)
        return encode(TaskConflict(id=task.id, project=task.project, fingerprint=task.fingerprint))
    return encode(TaskAccepted(task=task if earlier.message is None else decode_task(earlier.message)))
