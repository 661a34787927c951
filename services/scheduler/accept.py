"""Takes creates and returns into the table: commit, wheel, publish, and only then may the consumer ack.

A redelivery finds the row or its tombstone and publishes the same event again. Of a return nobody hears.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import structlog
from prometheus_client import Counter

from libs.common import topology
from libs.common.contracts import CreateTask, ReturnTask, Task, TaskAccepted, TaskConflict, decode_task, encode
from libs.common.intake import Poison
from libs.common.metrics import REGISTRY
from libs.common.postgres import until_available
from libs.common.publisher import Publisher
from services.scheduler.store import Accepted, BadRow, Row, Store

ACCEPTED = Counter(
    "carillon_scheduler_accepted_total", "Tasks taken in, by kind and result", ["kind", "result"], registry=REGISTRY
)

Hold = Callable[[UUID, datetime], None]

log = structlog.get_logger(__name__)


class Acceptor:
    """`hold(id, due_at)` tells the wheel of what has been committed."""

    def __init__(self, store: Store, publisher: Publisher, hold: Hold) -> None:
        self._store = store
        self._publisher = publisher
        self._hold = hold

    async def creates(self, messages: Sequence[CreateTask]) -> None:
        tasks = [message.task for message in messages]
        accepted = await self._accept([_row(task, task.due_at) for task in tasks], "create")
        first = _firsts(tasks)
        events = [_event(task, first[task.id], accepted) for task in tasks]
        await asyncio.gather(*(self._publisher.insist(topology.TASK_EVENT, event) for event in events))

    async def returns(self, messages: Sequence[ReturnTask]) -> None:
        await self._accept([_row(message.task, message.not_before) for message in messages], "return")

    async def _accept(self, rows: Sequence[Row], kind: str) -> Accepted:
        newest: dict[UUID, Row] = {}
        for row in rows:
            known = newest.get(row.id)
            if known is None or (row.fingerprint == known.fingerprint and row[1:4] > known[1:4]):
                newest[row.id] = row
        unique = list(newest.values())
        try:
            accepted = await until_available(lambda: self._store.accept(unique))
        except BadRow as error:
            if len(rows) == 1:
                raise Poison(f"Postgres refuses it: {error}") from error
            raise
        for row in unique:
            if row.id in accepted.held:
                self._hold(row.id, row.due_at)
        ACCEPTED.labels(kind, "held").inc(len(accepted.held))
        ACCEPTED.labels(kind, "known").inc(len(rows) - len(accepted.held))
        return accepted


def _row(task: Task, due_at: datetime) -> Row:
    return Row(task.id, *task.order, due_at, task.expires_at, task.project, task.fingerprint, encode(task))


def _firsts(tasks: Sequence[Task]) -> dict[UUID, Task]:
    """The first create of each id in a batch: the one whose row was given to the store."""
    first: dict[UUID, Task] = {}
    for task in tasks:
        first.setdefault(task.id, task)
    return first


def _event(task: Task, first: Task, accepted: Accepted) -> bytes:
    """What the history hears of one create: the task that stands under its id, or that it is another one."""
    earlier = accepted.earlier.get(task.id)
    fingerprint = first.fingerprint if earlier is None else earlier.fingerprint
    if task.fingerprint != fingerprint:
        log.warning("create.conflicts", task_id=str(task.id), project=task.project)
        return encode(TaskConflict(id=task.id, project=task.project, fingerprint=task.fingerprint))
    if earlier is not None and earlier.message is not None:
        return encode(TaskAccepted(task=decode_task(earlier.message)))
    return encode(TaskAccepted(task=first))
