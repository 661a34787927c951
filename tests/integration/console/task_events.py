"""Tasks for the pages of tasks, as the services would tell of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec

from libs.common.clock import SystemClock
from libs.common.contracts import (
    AttemptFinished,
    Call,
    Event,
    Task,
    TaskAccepted,
    TaskFinished,
    TaskParked,
    Timing,
    encode,
)
from libs.common.postgres import Postgres
from services.ingest.creation import this_millisecond
from services.ingest.projection import in_id_order, project
from services.ingest.store import Store

NOW = this_millisecond(SystemClock().now())
URL = "https://api.example.com/orders"


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def accepted(call: Call | None = None, *, due: float = 600.0, project: str = "default", **more: Any) -> TaskAccepted:
    values: dict[str, Any] = {"id": uuid4(), "created_at": at(-30), "due_at": at(due), "fingerprint": "f"}
    return TaskAccepted(task=Task(project=project, call=msgspec.Raw(encode(call or Call(url=URL))), **values | more))


def called(task: TaskAccepted, number: int = 1, outcome: str = "retry", **more: Any) -> AttemptFinished:
    """The end of a call of it, which failed with 503 unless said otherwise."""
    of = task.task
    values: dict[str, Any] = {
        "generation": of.generation, "hop": number, "due_at": of.due_at, "started_at": at(number - 20),
        "duration_ms": 250, "status_code": 200 if outcome == "succeeded" else 503, "replica": "dispatcher-1",
        "error": None if outcome == "succeeded" else "server_error",
        "error_detail": None if outcome == "succeeded" else "HTTP 503",
        "next_attempt_at": at(3600) if outcome == "retry" else None,
        "timing": Timing(queue_ms=40, dns_ms=5, connect_ms=20, tls_ms=25, first_byte_ms=150),
    }  # fmt: skip
    return AttemptFinished(id=of.id, project=of.project, attempt=number, outcome=outcome, **values | more)  # type: ignore[arg-type]


def ended(task: TaskAccepted, state: str) -> Event:
    """Without a call."""
    of = task.task
    which: dict[str, Any] = {"id": of.id, "project": of.project, "generation": of.generation, "attempt": 1, "hop": 1}
    if state == "parked":
        return TaskParked(parked_at=NOW, cause="crashes", **which)
    return TaskFinished(state=state, finished_at=NOW, **which)  # type: ignore[arg-type]


async def told(postgres: Postgres, events: Sequence[Event]) -> None:
    """What the projection makes of them is in the history."""
    store, batch = Store(postgres), project(events)
    await store.make_days((NOW - timedelta(days=2)).date(), 4)
    await store.save(in_id_order(batch), list(batch.attempts.values()), list(batch.targets.values()))


async def one(postgres: Postgres, state: str = "scheduled", call: Call | None = None, **more: Any) -> UUID:
    """A task in that state."""
    task = accepted(call, **{"due": -20.0} | more if state not in {"scheduled"} else more)
    then: dict[str, Sequence[Event]] = {
        "scheduled": [],
        "due": [],
        "retrying": [called(task)],
        "failed": [called(task), called(task, 2, "failed")],
        "succeeded": [called(task, 1, "succeeded")],
    }
    await told(postgres, [task, *then.get(state, [ended(task, state)] if state not in then else [])])
    return task.task.id
