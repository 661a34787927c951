"""Takes what nobody could process off the parking queue: stores it for a person, and says so in history and mail.

A parked message must never be parked again, so nothing here may fail for good: what cannot be read is stored as it
is, and what cannot be stored is tried until it can.
"""

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import asyncpg
import msgspec
import structlog
from aio_pika.abc import AbstractIncomingMessage
from prometheus_client import Counter

from libs.common.clock import Clock
from libs.common.consumer import ItemConsumer
from libs.common.contracts import (
    AnyMessage,
    AttemptFinished,
    Call,
    CancelTask,
    CreateTask,
    FailedTask,
    RescheduleTask,
    ReturnTask,
    Task,
    TaskConflict,
    TaskDue,
    TaskFinished,
    TaskParked,
    decode_call,
    decode_task,
    encode,
)
from libs.common.intake import CAUSE_HEADER, CRASHES_HEADER, ORIGIN_HEADER, UNREADABLE, Intake
from libs.common.lifecycle import Backoff
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from libs.common.publisher import Publisher
from libs.common.topology import FALLBACK_ENTRY, PARKING, TASK_EVENT, Route
from services.ingest.projection import storable
from services.ingest.store import Store
from services.ingest.stored import ParkedMessage

PREFETCH = 32
AT_A_TIME = 4
DEAD_LETTER_QUEUE_HEADER = "x-first-death-queue"
DEAD_LETTER_REASON_HEADER = "x-first-death-reason"

PARKED = Counter(
    "carillon_ingest_parked_total", "Messages stored for a person, by origin", ["origin"], registry=REGISTRY
)

log = structlog.get_logger(__name__)
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_message: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)
_ABOUT_A_TASK = (Task, AttemptFinished, TaskFinished, TaskParked, TaskConflict, CancelTask, RescheduleTask, FailedTask)


class Insists(Protocol):
    """The part of `Publisher` that parking needs."""

    async def insist(self, route: Route, item: bytes) -> None: ...


class Stuck(NamedTuple):
    """A task that a parked message was about. `call` is None when the message does not carry it."""

    task: Task | AttemptFinished | TaskFinished
    due_at: datetime | None
    call: Call | None


class Parking:
    """The handler of the parking queue."""

    def __init__(self, store: Store, publisher: Insists, clock: Clock) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock

    async def handle(self, parked: ParkedMessage) -> None:
        """Store, tell, and only then let the broker forget it. Repeated after a crash in between."""
        now = self._clock.now()
        for part in parts(parked):
            await self._keep(part, now)
            for stuck in stuck_tasks(part.body):
                await self._tell(stuck, part, now)
        PARKED.labels(parked.origin).inc()
        log.error("message.parked", message_id=parked.message_id, origin=parked.origin, cause=parked.cause)

    async def _keep(self, parked: ParkedMessage, now: datetime) -> None:
        backoff = Backoff(first_s=0.1, cap_s=10.0)
        while True:
            try:
                return await self._store.park(parked, now)
            except (PostgresAway, asyncpg.PostgresError) as error:
                log.error("parking.held", message_id=parked.message_id, reason=str(error))
                await asyncio.sleep(backoff.next())

    async def _tell(self, stuck: Stuck, parked: ParkedMessage, now: datetime) -> None:
        task = stuck.task
        event = TaskParked(
            id=task.id,
            project=task.project,
            generation=task.generation,
            attempt=task.attempt,
            hop=task.hop,
            parked_at=now,
            cause=f"{parked.origin}: {parked.cause}",
        )
        await self._publisher.insist(TASK_EVENT, encode(event))
        await self._publisher.insist(FALLBACK_ENTRY, encode(_digest_line(stuck, event)))


def parking_consumer(parking: Parking, publisher: Publisher) -> ItemConsumer[ParkedMessage]:
    intake = Intake(PARKING, read_parked, publisher, prefetch=PREFETCH, split=_whole)
    return ItemConsumer(intake, parking.handle, asyncio.Semaphore(AT_A_TIME))


def read_parked(body: bytes, message: AbstractIncomingMessage) -> ParkedMessage:
    """Reads anything: what we parked says why in our headers, what the broker dead-lettered in its own."""
    headers = message.headers
    crashes = headers.get(CRASHES_HEADER)
    return ParkedMessage(
        message_id=storable(message.message_id or hashlib.sha256(body).hexdigest()),
        origin=_text(headers.get(ORIGIN_HEADER) or headers.get(DEAD_LETTER_QUEUE_HEADER) or "unknown"),
        cause=_text(headers.get(CAUSE_HEADER) or headers.get(DEAD_LETTER_REASON_HEADER) or "unknown"),
        crashes=crashes if isinstance(crashes, int) else 0,
        headers=msgspec.json.encode(headers, enc_hook=repr),
        body=body,
    )


def parts(parked: ParkedMessage) -> list[ParkedMessage]:
    """Item by item, so that each has one project; as it is when it cannot be taken apart."""
    try:
        items = _items(parked.body)
    except UNREADABLE:
        return [parked]
    if len(items) == 1:
        return [parked._replace(**_owner(items[0]))]
    return [
        parked._replace(message_id=f"{parked.message_id}-{number}", body=b"[" + bytes(item) + b"]", **_owner(item))
        for number, item in enumerate(items)
    ] or [parked]


def stuck_tasks(body: bytes) -> Iterator[Stuck]:
    """The tasks that can still be read in a parked message, once per item about one."""
    try:
        items = _items(body)
    except UNREADABLE:
        return
    for item in items:
        try:
            stuck = _stuck(_message.decode(item))
        except UNREADABLE:
            continue
        if stuck is not None:
            yield stuck


def _owner(item: msgspec.Raw) -> dict[str, Any]:
    """The project that an item is of, and the task that it is about, as far as it says."""
    try:
        message = _message.decode(item)
        about = decode_task(message.task) if isinstance(message, TaskDue) else getattr(message, "task", message)
    except UNREADABLE:
        return {}
    project = getattr(about, "project", None)
    task_id = about.id if isinstance(about, _ABOUT_A_TASK) else None
    return {"project": project and storable(project), "task_id": task_id}


def _stuck(message: AnyMessage) -> Stuck | None:
    match message:
        case CreateTask() | ReturnTask():
            return Stuck(message.task, message.task.due_at, _call(message.task))
        case TaskDue():
            task = decode_task(message.task)
            return Stuck(task, task.due_at, _call(task))
        case AttemptFinished():
            return Stuck(message, message.due_at, None)
        case TaskFinished():
            return Stuck(message, None, None)
        case _:
            return None


def _call(task: Task) -> Call | None:
    try:
        return decode_call(task.call)
    except UNREADABLE:
        return None


def _digest_line(stuck: Stuck, event: TaskParked) -> FailedTask:
    task, call = stuck.task, stuck.call
    return FailedTask(
        id=task.id,
        project=task.project,
        generation=task.generation,
        state="parked",
        method=call.method if call else "",
        url=call.url if call else "",
        due_at=stuck.due_at or event.parked_at,
        failed_at=event.parked_at,
        attempts=task.attempt,
        error="parked",
        error_detail=event.cause,
        labels=task.labels if isinstance(task, Task) else {},
    )


def _whole(message: AbstractIncomingMessage) -> list[bytes]:
    return [message.body]


def _text(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return storable(text)
