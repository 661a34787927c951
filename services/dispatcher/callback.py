"""The call that tells a task's owner how it ended: a task of its own, with a ladder of its own and no callbacks."""

import hashlib
from datetime import datetime, timedelta

import msgspec

from libs.common.clock import format_utc
from libs.common.contracts import AttemptFinished, Call, Task, decode_call, encode
from libs.common.finished import FinalAttempt, FinishedTask
from libs.common.ids import callback_id


def callback_of(task: Task, url: str, event: AttemptFinished) -> Task:
    """The same for the same end of the same generation, however often it is made."""
    finished_at = event.started_at + timedelta(milliseconds=event.duration_ms)
    body = msgspec.json.encode(_finished(task, event, finished_at))
    call = Call(url=url, headers=(("Content-Type", "application/json"),), body=body)
    return Task(
        id=callback_id(task.project, task.id, task.generation, event.outcome),
        project=task.project,
        created_at=finished_at,
        due_at=finished_at,
        fingerprint=hashlib.sha256(url.encode() + b"\n" + body).hexdigest(),
        labels={"callback_of": str(task.id)},
        call=msgspec.Raw(encode(call)),
    )


def _finished(task: Task, event: AttemptFinished, finished_at: datetime) -> FinishedTask:
    call = decode_call(task.call)
    return FinishedTask(
        id=task.id,
        project=task.project,
        status="succeeded" if event.outcome == "succeeded" else "failed",
        url=call.url,
        method=call.method,
        labels=task.labels,
        created_at=format_utc(task.created_at),
        due_at=format_utc(task.due_at),
        finished_at=format_utc(finished_at),
        attempt_count=event.attempt,
        last_attempt=FinalAttempt(
            number=event.attempt,
            started_at=format_utc(event.started_at),
            duration_ms=event.duration_ms,
            status_code=event.status_code,
            error=event.error,
            error_detail=event.error_detail,
        ),
    )
