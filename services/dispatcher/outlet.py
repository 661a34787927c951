"""Tells the others what became of an attempt: events, the next rung or the scheduler, the fallback queue.

All of it is confirmed, or held and repeated; nothing here decides anything.
"""

import asyncio
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import structlog

from libs.common import topology
from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import (
    AttemptFinished,
    Call,
    CreateTask,
    FailedTask,
    ReturnTask,
    TargetChanged,
    Task,
    TaskDue,
    TaskFinished,
    encode,
)
from libs.common.lifecycle import Backoff
from libs.common.publisher import Publisher, PublishUnknown, Refused, Unroutable
from services.dispatcher.callback import callback_of
from services.dispatcher.gate import BreakerChange
from services.dispatcher.retry import Cancel, Done, Expire, Fail, Retry, Verdict
from services.dispatcher.urgent import Urgent

# A longer rung may hold what waits for a claim until its done mark has gone (`marks.DONE_S`), and it is called again.
CLAIM_RUNG_MS_MAX = 60_000
CLAIM_WAIT_MS = 5_000

log = structlog.get_logger(__name__)


class Outlet:
    def __init__(
        self, publisher: Publisher, clock: Clock, replica: str, urgent_labels: Collection[tuple[str, str]] = ()
    ) -> None:
        self._publisher = publisher
        self._urgent = Urgent(urgent_labels, publisher)
        self._clock = clock
        self._replica = replica

    async def publish(self, task: Task, call: Call, verdict: Verdict) -> None:
        """Everything that follows from `verdict`; returns when all of it is confirmed."""
        match verdict:
            case Done(event):
                await self._attempt(event)
                await self._call_back(task, call.callback_success, event)
            case Retry(event, not_before, wait_ms):
                await asyncio.gather(self._attempt(event), self._wait(_next(task), not_before, wait_ms))
            case Fail(event):
                failed = _failed(task, call, event)
                await asyncio.gather(
                    self._attempt(event),
                    self._publisher.insist(topology.FALLBACK_ENTRY, encode(failed)),
                    self._urgent.tell(failed),
                    self._call_back(task, call.callback_failure, event),
                )
            case Expire(at):
                await self._publisher.insist(topology.TASK_EVENT, encode(_expired(task, at)))
            case Cancel(at, event):
                end = _cancelled(task.id, task.project, (task.generation, task.attempt, task.hop), at)
                told = [end] if event is None else [event, end]
                # In one message, so in one batch of the history: the last call alone would look like a failure.
                await self._publisher.insist_many(topology.TASK_EVENT, [encode(one) for one in told])

    async def cancelled(self, id_: UUID, project: str, order: tuple[int, int, int], at: datetime) -> None:
        await self._publisher.insist(topology.TASK_EVENT, encode(_cancelled(id_, project, order, at)))

    async def put_off(self, task: Task, due_at: datetime, wait_s: float, reason: str) -> None:
        """The same attempt again in `wait_s`, by the scheduler: a hop, not an attempt."""
        moved = msgspec.structs.replace(task, hop=task.hop + 1, put_off_since=task.put_off_since or due_at)
        not_before = ceil_to_ms(self._clock.now() + timedelta(seconds=wait_s))
        if task.expires_at is not None:
            not_before = min(not_before, task.expires_at)
        returned = ReturnTask(task=moved, not_before=not_before, reason=reason)
        await self._publisher.insist(topology.RETURN, encode(returned))

    async def breaker_changed(self, change: BreakerChange) -> None:
        now = ceil_to_ms(self._clock.now())
        until = now + timedelta(seconds=change.for_s) if change.state == "open" else None
        event = TargetChanged(
            host=change.host,
            state=change.state,
            changed_at=now,
            until=until and ceil_to_ms(until),
            replica=self._replica,
            reason=change.reason,
        )
        await self._publisher.insist(topology.TARGET_EVENT, encode(event))

    async def wait_for_claim(self, task: Task, due_at: datetime, shortest_ms: int | None) -> None:
        """The same attempt again in a while: a hop, not an attempt."""
        rung_ms = shortest_ms if shortest_ms is not None and shortest_ms <= CLAIM_RUNG_MS_MAX else None
        wait_ms = rung_ms if rung_ms is not None else CLAIM_WAIT_MS
        moved = msgspec.structs.replace(task, hop=task.hop + 1)
        await self._wait(moved, due_at, rung_ms, self._clock.now() + timedelta(milliseconds=wait_ms))

    async def _wait(
        self, task: Task, due_at: datetime, wait_ms: int | None, not_before: datetime | None = None
    ) -> None:
        """On the rung of `wait_ms`; by the scheduler when there is none, or when it is full."""
        if wait_ms is not None and await self._on_rung(task, due_at, wait_ms):
            return
        returned = ReturnTask(task=task, not_before=not_before or due_at, reason="no rung for it, or it is full")
        await self._publisher.insist(topology.RETURN, encode(returned))

    async def _on_rung(self, task: Task, due_at: datetime, wait_ms: int) -> bool:
        item = encode(
            TaskDue(task=msgspec.Raw(encode(task)), due_at=due_at, emitted_at=self._clock.now(), rung_ms=wait_ms)
        )
        backoff = Backoff(first_s=0.05, cap_s=1.0)
        while True:
            try:
                await self._publisher.publish(topology.rung(wait_ms), item)
                return True
            except (Refused, Unroutable) as error:
                log.warning("rung.refused", wait_ms=wait_ms, reason=str(error))
                return False
            except PublishUnknown:
                await asyncio.sleep(backoff.next())

    async def _call_back(self, task: Task, url: str | None, event: AttemptFinished) -> None:
        if url is not None:
            await self._publisher.insist(topology.CREATE, encode(CreateTask(task=callback_of(task, url, event))))

    async def _attempt(self, event: AttemptFinished) -> None:
        await self._publisher.insist(topology.ATTEMPT_EVENT, encode(event))


def _next(task: Task) -> Task:
    return msgspec.structs.replace(task, attempt=task.attempt + 1, hop=task.hop + 1, put_off_since=None)


def _cancelled(id_: UUID, project: str, order: tuple[int, int, int], at: datetime) -> TaskFinished:
    generation, attempt, hop = order
    return TaskFinished(
        id=id_,
        project=project,
        generation=generation,
        attempt=attempt,
        hop=hop,
        state="cancelled",
        finished_at=ceil_to_ms(at),
    )


def _expired(task: Task, at: datetime) -> TaskFinished:
    return TaskFinished(
        id=task.id,
        project=task.project,
        generation=task.generation,
        attempt=task.attempt,
        hop=task.hop,
        state="expired",
        finished_at=at,
        reason="expires_at passed before the call",
    )


def _failed(task: Task, call: Call, event: AttemptFinished) -> FailedTask:
    return FailedTask(
        id=task.id,
        project=task.project,
        generation=task.generation,
        state="failed",
        method=call.method,
        url=call.url,
        due_at=task.due_at,
        failed_at=event.started_at + timedelta(milliseconds=event.duration_ms),
        attempts=task.attempt,
        status_code=event.status_code,
        error=event.error,
        error_detail=event.error_detail,
        labels=task.labels,
    )
