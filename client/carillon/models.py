"""What is answered. Fields that a newer server adds are passed over; ones that an older one lacks have a default."""

from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from carillon.errors import Problem
from carillon.fields import Callbacks, Expect, Retry

T = TypeVar("T")

FINAL = frozenset({"succeeded", "failed", "cancelled", "expired", "parked"})


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One parent, so that every answer is immutable and built by name."""


class LastAttempt(_Answer, frozen=True, kw_only=True):
    number: int
    status_code: int | None = None
    error: str | None = None
    duration_ms: int | None = None


class Task(_Answer, frozen=True, kw_only=True):
    """`status` is one of scheduled, due, delivering, retrying, and the final ones. Of what was sent a list tells only
    `url` and `method`."""

    id: str
    status: str
    project: str = ""
    url: str = ""
    method: str = "POST"
    headers: dict[str, str] = {}
    body: Any = None
    body_text: str | None = None
    body_base64: str | None = None
    content_type: str | None = None
    timeout_s: float | None = None
    created_at: datetime | None = None
    due_at: datetime | None = None
    expires_at: datetime | None = None
    retry: Retry = {}
    expect: Expect = {}
    labels: dict[str, str] = {}
    schedule: str | None = None
    callbacks: Callbacks = {}
    attempt_count: int = 0
    next_attempt_at: datetime | None = None
    first_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    lateness_ms: int | None = None
    last_attempt: LastAttempt | None = None

    @property
    def is_final(self) -> bool:
        """No call follows, unless somebody redrives it."""
        return self.status in FINAL


class Attempt(_Answer, frozen=True, kw_only=True):
    """One call. The body of its answer is text where it is UTF-8; its first 8 KiB are kept."""

    number: int
    generation: int = 0
    started_at: datetime | None = None
    lateness_ms: int | None = None
    duration_ms: int | None = None
    status_code: int | None = None
    error: str | None = None
    error_detail: str | None = None
    next_attempt_at: datetime | None = None
    timing: dict[str, Any] | None = None
    response_headers: list[tuple[str, str]] = []
    response_body: str | None = None
    response_body_base64: str | None = None
    curl: str = ""


class Cause(_Answer, frozen=True, kw_only=True):
    code: str
    detail: str = ""
    since: datetime | None = None
    until: datetime | None = None


class Move(_Answer, frozen=True, kw_only=True):
    code: str
    detail: str = ""


class Explanation(_Answer, frozen=True, kw_only=True):
    """Where a task is, why it is not called yet, and what would move it when. `code` and those of its parts are for
    programs."""

    code: str
    sentence: str
    status: str = ""
    because: list[Cause] = []
    next_at: datetime | None = None
    what_would_move_it: list[Move] = []


class BatchResult(_Answer, frozen=True, kw_only=True):
    """What became of one task of a batch: its `id`, or the `problem`."""

    index: int
    status: int
    id: str | None = None
    problem: Problem | None = None


class Bulk(_Answer, frozen=True, kw_only=True):
    """A command for many tasks, at work until `finished_at`. `id` is None of a dry run; `matched` is a lower bound
    where `is_exact` is false. Of what has been looked at: `done`; `left_alone` because it had moved on; `unknown`."""

    matched: int
    id: str | None = None
    action: str = ""
    is_exact: bool = True
    done: int = 0
    left_alone: int = 0
    unknown: int = 0
    submitted_at: datetime | None = None
    finished_at: datetime | None = None


class Purged(_Answer, frozen=True, kw_only=True):
    """The ids that were erased, or would be by a dry run; those of tasks that have not ended; those of none."""

    purged: list[str] = []
    waiting: list[str] = []
    unknown: list[str] = []


class Template(_Answer, frozen=True, kw_only=True):
    """The task that a schedule makes each time."""

    url: str
    method: str = "POST"
    headers: dict[str, str] = {}
    body: Any = None
    body_text: str | None = None
    body_base64: str | None = None
    content_type: str | None = None
    timeout_s: float | None = None
    retry: Retry = {}
    expect: Expect = {}
    labels: dict[str, str] = {}
    callbacks: Callbacks = {}


class Schedule(_Answer, frozen=True, kw_only=True):
    """`status` is active, paused or ended. A list leaves out when it comes, and `task`."""

    name: str
    status: str = ""
    id: str | None = None
    project: str = ""
    cron: str | None = None
    every: str | float | None = None
    timezone: str | None = None
    start_at: datetime | None = None
    end_at: datetime | None = None
    catch_up: str | None = None
    expires_after_s: float | None = None
    task: Template | None = None
    words: str | None = None
    next_at: datetime | None = None
    next_local: str | None = None
    created_at: datetime | None = None
    changed_at: datetime | None = None
    revision: int | None = None


class ScheduleRun(_Answer, frozen=True, kw_only=True):
    """The task that a schedule was told to make now."""

    task_id: str


class Fire(_Answer, frozen=True, kw_only=True):
    """One time that a schedule comes, in UTC and as clocks show it. `dst` "gap": clocks skip `meant`, so it comes at
    the first instant after; "first" and "second": of two passes."""

    at: datetime
    local: str = ""
    dst: str | None = None
    meant: str | None = None


class Preview(_Answer, frozen=True, kw_only=True):
    fires: list[Fire] = msgspec.field(name="data")
    words: str | None = None
    timezone: str | None = None


class Key(_Answer, frozen=True, kw_only=True):
    """`key` itself is there only in the answer to create and rotate: it is stored nowhere."""

    id: str
    name: str = ""
    project: str = ""
    scopes: list[str] = []
    status: str = ""
    per_s: float | None = None
    burst: int | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    replaced_by: str | None = None
    key: str | None = None


class PreviousSecret(_Answer, frozen=True, kw_only=True):
    secret: str
    version: int | None = None
    until: datetime | None = None


class SigningSecret(_Answer, frozen=True, kw_only=True):
    """What calls are signed with; for as long as a rotation overlaps, with the `previous` one too."""

    secret: str
    project: str = ""
    version: int | None = None
    previous: PreviousSecret | None = None
    changed_at: datetime | None = None


class Breaker(_Answer, frozen=True, kw_only=True):
    """Open when nearly no call to the host was answered: calls are put off until then at least."""

    state: str
    until: datetime | None = None


class Target(_Answer, frozen=True, kw_only=True):
    """A host that is called: paused by a person, limited to `per_s` calls a second after `burst` at once."""

    host: str
    is_paused: bool = False
    per_s: float | None = None
    burst: int | None = None
    breaker: Breaker | None = None
    changed_at: datetime | None = None
    changed_by: str | None = None


class Parked(_Answer, frozen=True, kw_only=True):
    """A dead letter: a message that no service could process. `cause` is why, `origin` the queue whose consumer gave
    up, `crashes` how often it had tried. A list leaves out what is in it."""

    id: str
    origin: str = ""
    cause: str = ""
    crashes: int = 0
    parked_at: datetime | None = None
    project: str | None = None
    task_id: str | None = None
    headers: dict[str, Any] = {}
    body: str | None = None
    body_base64: str | None = None


class ParkedRedrive(_Answer, frozen=True, kw_only=True):
    """How many items went back to the queue `origin`."""

    id: str
    origin: str = ""
    items: int = 0


class Notice(_Answer, frozen=True, kw_only=True):
    """A text of one's own, on its way into the next digest."""

    id: str


class DigestPreview(_Answer, frozen=True, kw_only=True):
    """The next digest, from the history: `failed` tasks since the last one, as text and as HTML."""

    subject: str = ""
    text: str = ""
    html: str = ""
    failed: int = 0
    since: datetime | None = None
    next_at: datetime | None = None


class DigestSent(_Answer, frozen=True, kw_only=True):
    """How many mails are on their way; 0 when nothing waited."""

    pages: int = 0
    next_at: datetime | None = None


class Page(_Answer, Generic[T], frozen=True, kw_only=True):
    data: list[T]
    next_cursor: str | None = None


class BatchResults(_Answer, frozen=True, kw_only=True):
    results: list[BatchResult]
