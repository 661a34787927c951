"""Tasks, calls and answers that differ from a plain one only in what a test is about."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from libs.common.contracts import Call, Task, TaskDue, encode
from services.dispatcher.outcome import Answer
from services.dispatcher.signature import Signer

NOW = datetime(2027, 3, 1, 9, 0, 0, tzinfo=UTC)
MASTER_KEY = "m4st3r-k3y-0f-th3-t3sts-0123456789"
SIGNER = Signer(MASTER_KEY)


def a_call(**different: Any) -> Call:
    return Call(**{"url": "http://127.0.0.1/hook", **different})


def a_task(call: Call | None = None, *, id: UUID | None = None, **different: Any) -> Task:
    plain = {
        "id": id or uuid4(),
        "project": "shop",
        "created_at": NOW - timedelta(hours=1),
        "due_at": NOW,
        "fingerprint": "f" * 64,
        "call": msgspec.Raw(encode(call or a_call())),
    }
    return Task(**{**plain, **different})


def due(task: Task, due_at: datetime | None = None) -> TaskDue:
    return TaskDue(task=msgspec.Raw(encode(task)), due_at=due_at or task.due_at, emitted_at=NOW)


def an_answer(status: int | None = 200, body: bytes = b"", error: Any = None, **headers: str) -> Answer:
    """Header names as keywords: `retry_after="5"`."""
    return Answer(
        started_at=NOW + timedelta(milliseconds=3),
        duration_ms=40,
        status_code=status,
        headers=tuple((name.replace("_", "-"), value) for name, value in headers.items()),
        body=body,
        error=error,
        error_detail=None if error is None else f"{error} it was",
    )
