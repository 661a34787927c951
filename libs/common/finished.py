"""The body of a callback, as the dispatcher sends it and ingest describes it."""

from typing import Literal
from uuid import UUID

import msgspec


class FinalAttempt(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    started_at: str
    duration_ms: int
    status_code: int | None
    error: str | None
    error_detail: str | None


class FinishedTask(msgspec.Struct, frozen=True, kw_only=True):
    """What `callbacks.success` and `callbacks.failure` get: names as in the Task, without what was sent."""

    id: UUID
    project: str
    status: Literal["succeeded", "failed"]
    url: str
    method: str
    labels: dict[str, str]
    created_at: str
    due_at: str
    finished_at: str
    attempt_count: int
    last_attempt: FinalAttempt
