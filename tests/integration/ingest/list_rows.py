"""Tasks for the tests of lists, as events: what the projection makes of them is what lists find."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import msgspec

from libs.common.clock import SystemClock
from libs.common.contracts import AttemptFinished, Call, Event, Task, TaskAccepted, TaskFinished, encode
from services.ingest.creation import this_millisecond

NOW = this_millisecond(SystemClock().now())


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def accepted(
    id_: UUID | None = None,
    *,
    created: float = 0.0,
    due: float = 60.0,
    url: str = "https://example.com/",
    labels: Mapping[str, str] | None = None,
    project: str = "default",
    schedule: str | None = None,
    generation: int = 1,
    body: bytes = b"secret",
    ladder: tuple[float, ...] | None = None,
) -> TaskAccepted:
    return TaskAccepted(
        task=Task(
            id=id_ or uuid4(), project=project, generation=generation, created_at=at(created), due_at=at(due),
            fingerprint="f", labels=dict(labels or {}), schedule=schedule,
            call=msgspec.Raw(encode(Call(url=url, body=body, schedule_s=ladder))),
        )
    )  # fmt: skip


def became(task: TaskAccepted, state: str, second: float = 0.0) -> list[Event]:
    """What is told of a task that has come to `state`."""
    of = task.task
    if state == "scheduled":
        return []
    if state in {"cancelled", "expired"}:
        return [TaskFinished(
            id=of.id, project=of.project, generation=of.generation, attempt=1, hop=1, state=state,  # type: ignore[arg-type]
            finished_at=at(second), reason="secret reason",
        )]  # fmt: skip
    outcome = "retry" if state == "retrying" else state
    return [AttemptFinished(
        id=of.id, project=of.project, generation=of.generation, attempt=1, hop=1, due_at=of.due_at,
        started_at=at(second), duration_ms=5, outcome=outcome, status_code=500,  # type: ignore[arg-type]
        error="server_error", error_detail="secret detail", response_body=b"secret answer",
        next_attempt_at=at(second + 5) if outcome == "retry" else None,
    )]  # fmt: skip


def ids(tasks: Sequence[TaskAccepted]) -> list[UUID]:
    return [each.task.id for each in tasks]
