"""The values that cross the border of `store.py`: what it gives to readers and takes from parking."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from libs.common.contracts import Task
from services.ingest.projection import State


class LastAttempt(NamedTuple):
    number: int
    status_code: int | None
    error: str | None
    duration_ms: int


class StoredTask(NamedTuple):
    """A task as the history knows it, in its latest `generation`. `call` is the JSON of its `contracts.Call`.

    `reason` is the error, or the cause, that its state came of; empty when there is none. `schedule` is the name of the
    one that made it.
    """

    id: UUID
    project: str
    created_at: datetime
    due_at: datetime
    expires_at: datetime | None
    fingerprint: str
    labels: Mapping[str, str]
    call: msgspec.Raw
    state: State = "scheduled"
    state_at: datetime | None = None
    finished_at: datetime | None = None
    first_attempt_at: datetime | None = None
    lateness_ms: int | None = None
    last_attempt: LastAttempt | None = None
    generation: int = 1
    reason: str = ""
    schedule: str | None = None

    @property
    def has_payload(self) -> bool:
        """False once it was purged: `call` is empty then."""
        return bool(bytes(self.call))


class StoredAttempt(NamedTuple):
    """One call as it ended. `response_headers` is JSON: an array of [name, value]; `timing` that of a `Timing`."""

    generation: int
    number: int
    due_at: datetime
    started_at: datetime
    duration_ms: int
    status_code: int | None
    error: str | None
    error_detail: str | None
    next_attempt_at: datetime | None
    response_headers: bytes
    response_body: bytes
    timing: bytes | None = None


class ParkedMessage(NamedTuple):
    """A message for a person. `headers` is JSON, `body` the bytes as they came. `project` is None of what says none."""

    message_id: str
    origin: str
    cause: str
    crashes: int
    headers: bytes
    body: bytes
    project: str | None = None
    task_id: UUID | None = None


def just_created(task: Task) -> StoredTask:
    """A task that the broker has taken and nobody has called yet."""
    return StoredTask(
        task.id, task.project, task.created_at, task.due_at, task.expires_at, task.fingerprint, task.labels, task.call
    )
