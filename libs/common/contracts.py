"""Every message that crosses RabbitMQ, as frozen values.

The tag of a type names it and its version (`TaskDue.1`). A new optional field keeps the version; any other change
is a new type beside the old one, so that a rolling upgrade reads yesterday's messages. `tests/contract/golden/`
holds one file per tag and its test fails when today's code reads one differently.

Times are aware UTC datetimes of whole milliseconds. `call` travels as the exact bytes that ingest wrote: the
scheduler carries it without looking inside, the dispatcher decodes it.
"""

from datetime import datetime
from typing import Literal, TypeVar
from uuid import UUID

import msgspec

Outcome = Literal["succeeded", "retry", "failed"]


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The HTTP request that a client asked for, and what counts as an answer.

    `schedule_s` is the task's own ladder, seconds per retry; None means the dispatcher's. `expect_status` holds
    classes ("2xx") or codes ("204"). `expect_json_success` is the ancestor's rule: status 200 and a JSON object
    whose `success` is true.
    """

    url: str
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    timeout_s: float = 15.0
    schedule_s: tuple[float, ...] | None = None
    respect_retry_after: bool = True
    expect_status: tuple[str, ...] = ("2xx",)
    expect_body_contains: str | None = None
    expect_json_success: bool = False
    traceparent: str | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task as it travels: who it is, which attempt comes next, and the call.

    (`generation`, `attempt`, `hop`) orders all messages about one id; `due_at` is the user's time and never changes
    within a generation. `fingerprint` is the SHA-256 of the request as it was sent, in hex.
    """

    id: UUID
    project: str
    generation: int = 1
    attempt: int = 1
    hop: int = 0
    created_at: datetime
    due_at: datetime
    expires_at: datetime | None = None
    fingerprint: str
    labels: dict[str, str] = {}
    call: msgspec.Raw

    @property
    def order(self) -> tuple[int, int, int]:
        return (self.generation, self.attempt, self.hop)


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What all messages share: the tag, in the field `type`."""


# --- carillon.tasks -------------------------------------------------------------------------------------------------


class CreateTask(Message, frozen=True, kw_only=True, tag="CreateTask.1"):
    """ingest -> scheduler: hold this task until `task.due_at`."""

    task: Task


class ReturnTask(Message, frozen=True, kw_only=True, tag="ReturnTask.1"):
    """dispatcher -> scheduler: emit this attempt not before `not_before`; the rungs have no place for it."""

    task: Task
    not_before: datetime
    reason: str


# --- carillon.due, carillon.retry -----------------------------------------------------------------------------------


class TaskDue(Message, frozen=True, kw_only=True, tag="TaskDue.1"):
    """scheduler, or a rung -> dispatcher: make the attempt `task.attempt` now. `due_at` is this attempt's own time."""

    task: msgspec.Raw  # of Task
    due_at: datetime
    emitted_at: datetime


# --- carillon.events ------------------------------------------------------------------------------------------------


class TaskAccepted(Message, frozen=True, kw_only=True, tag="TaskAccepted.1"):
    """The scheduler holds the task. Published for every create, also a repeated one."""

    task: Task


class TaskConflict(Message, frozen=True, kw_only=True, tag="TaskConflict.1"):
    """A create repeated an id with another request; the first one stands."""

    id: UUID
    project: str
    fingerprint: str


class AttemptFinished(Message, frozen=True, kw_only=True, tag="AttemptFinished.1"):
    """One HTTP call ended, and with "succeeded" or "failed" its task too: nothing will call it in this generation.

    Durations in ms; `response_body` is what was read of it, at most 8 KiB.
    `error` is a class from a closed list (`services/dispatcher/outcome.py`); None when the answer was a success.
    `next_attempt_at` is set exactly when `outcome` is "retry".
    """

    id: UUID
    project: str
    generation: int
    attempt: int
    hop: int
    due_at: datetime
    started_at: datetime
    duration_ms: int
    outcome: Outcome
    status_code: int | None = None
    error: str | None = None
    error_detail: str | None = None
    next_attempt_at: datetime | None = None
    response_headers: tuple[tuple[str, str], ...] = ()
    response_body: bytes = b""
    replica: str = ""


class TaskFinished(Message, frozen=True, kw_only=True, tag="TaskFinished.1"):
    """The task ended without another call; a call that ends a task says so itself (`AttemptFinished`)."""

    id: UUID
    project: str
    generation: int
    attempt: int
    hop: int
    state: Literal["cancelled", "expired"]
    finished_at: datetime
    reason: str | None = None


class TaskParked(Message, frozen=True, kw_only=True, tag="TaskParked.1"):
    """A message about the task could not be processed and waits in `ingest.parked` for a person."""

    id: UUID
    project: str
    generation: int
    attempt: int
    hop: int
    parked_at: datetime
    cause: str


# --- carillon.fallback, carillon.digest -----------------------------------------------------------------------------


class FailedTask(Message, frozen=True, kw_only=True, tag="FailedTask.1"):
    """One line for the digest: a task that ended as failed, or that was parked."""

    id: UUID
    project: str
    generation: int
    state: Literal["failed", "parked"]
    method: str
    url: str
    due_at: datetime
    failed_at: datetime
    attempts: int
    status_code: int | None = None
    error: str | None = None
    error_detail: str | None = None
    labels: dict[str, str] = {}


class Notice(Message, frozen=True, kw_only=True, tag="Notice.1"):
    """A text of a client's own (`POST /fallback`) for the next digest."""

    id: UUID
    project: str
    created_at: datetime
    subject: str
    message: str


class DigestPage(Message, frozen=True, kw_only=True, tag="DigestPage.1"):
    """One mail to send. `Message-ID` and `Date` come from here, so that a redelivery is the same mail."""

    id: UUID
    created_at: datetime
    number: int
    tries: int = 0
    failed: tuple[FailedTask, ...] = ()
    notices: tuple[Notice, ...] = ()


Event = TaskAccepted | TaskConflict | AttemptFinished | TaskFinished | TaskParked
FallbackEntry = FailedTask | Notice
AnyMessage = CreateTask | ReturnTask | TaskDue | Event | FallbackEntry | DigestPage

_encoder = msgspec.json.Encoder()
_call_decoder = msgspec.json.Decoder(Call)
_task_decoder = msgspec.json.Decoder(Task)

T = TypeVar("T")


def encode(value: msgspec.Struct) -> bytes:
    """The JSON of one message, or of a part of one."""
    return _encoder.encode(value)


def decode_call(raw: bytes | msgspec.Raw) -> Call:
    """Raises: msgspec.DecodeError when it is no `Call`."""
    return _call_decoder.decode(raw)


def decode_task(raw: bytes | msgspec.Raw) -> Task:
    """Raises: msgspec.DecodeError when it is no `Task`. The result owns its bytes."""
    return _task_decoder.decode(raw)
