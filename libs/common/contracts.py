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
ScheduleStatus = Literal["active", "paused", "ended", "deleted"]
LateBecause = Literal["restart", "broker", "postgres", "backlog"]
"""No scheduler was awake for it; the broker was away or blocked; Postgres was away; more was due than could go out."""


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The HTTP request that a client asked for, and what counts as an answer.

    `schedule_s` is the task's own ladder, seconds per retry; None means the dispatcher's. `expect_status` holds
    classes ("2xx") or codes ("204"). `expect_json_success` is the ancestor's rule: status 200 and a JSON object
    whose `success` is true. `callback_*` is a URL that gets the finished task, in a task of its own.
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
    callback_success: str | None = None
    callback_failure: str | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One task as it travels: who it is, which attempt comes next, and the call.

    (`generation`, `attempt`, `hop`) orders all messages about one id; `due_at` is the user's time and never changes
    within a generation. `fingerprint` is the SHA-256 of the request as it was sent, in hex; that of an occurrence is
    the id and revision of its schedule, whose name is in `schedule`. `put_off_since` is when the attempt was due that
    has been put off for a reason that is not its own (a pause, a limit, a breaker).
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
    schedule: str | None = None
    put_off_since: datetime | None = None
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


class CancelTask(Message, frozen=True, kw_only=True, tag="CancelTask.1"):
    """ingest -> scheduler, answered by `TaskAnswer`: no call of this task any more, also when its create comes later.

    `command_id` is a UUIDv7; `generation` is the latest that the asker knows.
    """

    id: UUID
    project: str
    command_id: UUID
    generation: int = 1


class RescheduleTask(Message, frozen=True, kw_only=True, tag="RescheduleTask.1"):
    """ingest -> scheduler, answered by `TaskAnswer`: another due time, in a generation of its own; None means now."""

    id: UUID
    project: str
    command_id: UUID
    due_at: datetime | None = None


class TaskAnswer(Message, frozen=True, kw_only=True, tag="TaskAnswer.1"):
    """scheduler -> who asked. `cancelled` and `rescheduled` are certain: the row decided.

    `left`: the task is due, has been called or has ended, so only the dispatcher can know more; a cancel holds for
    what of it may still come by the scheduler. `unknown`: the scheduler has no trace of it; a cancel is kept and wins
    over a create that comes later. `generation` and `due_at` tell of the row that decided. `overtaken_by`: nothing was
    changed, because a command of that greater id had been here.
    """

    command_id: UUID
    id: UUID
    result: Literal["cancelled", "rescheduled", "left", "unknown"]
    generation: int | None = None
    due_at: datetime | None = None
    overtaken_by: UUID | None = None


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A recurring task as its owner wants it: when (one of `cron` and `every`), and the call to make each time.

    `catch_up` is for occurrences missed while no scheduler ran: the latest one, all (the newest 1,000), or none.
    `expires_after_s` counts from each occurrence's time.
    """

    cron: str | None = None
    every: str | None = None
    timezone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    catch_up: Literal["latest", "all", "none"] = "latest"
    labels: dict[str, str] = {}
    expires_after_s: float | None = None
    call: msgspec.Raw


class HeldSchedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule as the scheduler holds it. `next_at` is None while it is paused or ended, `schedule` in a list."""

    id: UUID
    project: str
    name: str
    revision: int
    status: ScheduleStatus
    created_at: datetime
    changed_at: datetime
    next_at: datetime | None = None
    schedule: Schedule | None = None


class PutSchedule(Message, frozen=True, kw_only=True, tag="PutSchedule.1"):
    """ingest -> scheduler, answered by `ScheduleAnswer`: create the schedule of this name, or replace it.

    With `revision` only over that one (0: none yet); over another nothing changes, and the answer is what stands.
    """

    project: str
    name: str
    command_id: UUID
    schedule: Schedule
    revision: int | None = None


class ChangeSchedule(Message, frozen=True, kw_only=True, tag="ChangeSchedule.1"):
    """ingest -> scheduler, answered by `ScheduleAnswer`. "run" calls now, beside the schedule's own times."""

    project: str
    name: str
    command_id: UUID
    action: Literal["pause", "resume", "delete", "run", "show"]


class ScheduleAnswer(Message, frozen=True, kw_only=True, tag="ScheduleAnswer.1"):
    """scheduler -> who asked: how the schedule stands; `task_id` of a "run", and `detail` of what is invalid.

    `overtaken_by`: nothing was changed, because a command of that greater id had been here.
    """

    command_id: UUID
    result: Literal["done", "unknown", "invalid"]
    held: HeldSchedule | None = None
    task_id: UUID | None = None
    detail: str | None = None
    overtaken_by: UUID | None = None


class ListSchedules(Message, frozen=True, kw_only=True, tag="ListSchedules.1"):
    """ingest -> scheduler, answered by `ScheduleList`: at most `limit` of a project, by name, after `after`.

    `with_times`: each with its `schedule`, in which `call` is null and `labels` are empty.
    """

    project: str
    after: str = ""
    limit: int = 100
    with_times: bool = False


class ScheduleList(Message, frozen=True, kw_only=True, tag="ScheduleList.1"):
    """scheduler -> who asked. Each without its `schedule`, or without its call, so that the answer stays small."""

    held: tuple[HeldSchedule, ...]


# --- carillon.dispatch ----------------------------------------------------------------------------------------------


class TargetRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What holds for a project's calls to one host (`host[:port]` as in the URL, lower case).

    `per_s` calls a second, after `burst` at once; None for no limit. The rule with the highest `command_id` (a UUIDv7)
    counts.
    """

    project: str
    host: str
    command_id: UUID
    is_paused: bool = False
    per_s: float | None = None
    burst: int = 1


class SigningRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which secret a project's calls are signed with, and until when with the one before it as well."""

    project: str
    command_id: UUID
    version: int
    previous_until: datetime | None = None


class SetControl(Message, frozen=True, kw_only=True, tag="SetControl.1"):
    """ingest -> dispatcher, answered by `ControlAnswer`: rules that replace older ones.

    `is_all`: these are all there are, as of `command_id`; older rules that are not among them go.
    """

    command_id: UUID
    targets: tuple[TargetRule, ...] = ()
    signing: tuple[SigningRule, ...] = ()
    is_all: bool = False


class ControlAnswer(Message, frozen=True, kw_only=True, tag="ControlAnswer.1"):
    """dispatcher -> who asked: the rules are stored; every replica has them within two seconds."""

    command_id: UUID


class CancelAnswer(Message, frozen=True, kw_only=True, tag="CancelAnswer.1"):
    """dispatcher -> who asked with a `CancelTask` for a task that the scheduler has `left`.

    `cancelled`: no call will follow. `in-flight`: a call is under way; unless it succeeds, none will follow.
    `ended`: too late.
    """

    command_id: UUID
    id: UUID
    result: Literal["cancelled", "in-flight", "ended"]


# --- carillon.due, carillon.retry -----------------------------------------------------------------------------------


class TaskDue(Message, frozen=True, kw_only=True, tag="TaskDue.1"):
    """scheduler, or a rung -> dispatcher: make the attempt `task.attempt` now. `due_at` is this attempt's own time.

    `late_because` says what kept the scheduler when `emitted_at` is more than 100 ms after `due_at`; `rung_ms` is the
    rung that the message has waited on.
    """

    task: msgspec.Raw  # of Task
    due_at: datetime
    emitted_at: datetime
    late_because: LateBecause | None = None
    rung_ms: int | None = None


# --- carillon.events ------------------------------------------------------------------------------------------------


class TaskAccepted(Message, frozen=True, kw_only=True, tag="TaskAccepted.1"):
    """The scheduler holds the task. Published for every create, also a repeated one."""

    task: Task


class TaskConflict(Message, frozen=True, kw_only=True, tag="TaskConflict.1"):
    """A create repeated an id with another request; the first one stands."""

    id: UUID
    project: str
    fingerprint: str


class Timing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the time of a call went, one phase after the other; None for a phase that was not needed or not reached.

    `queue_ms` is from when the attempt was due to its start. `dns_ms` and `connect_ms` are None on a kept connection,
    `dns_ms` also when the address was known, `tls_ms` without TLS. `first_byte_ms` counts from the request sent to the
    first byte of its answer, interim ones included.
    """

    queue_ms: int | None = None
    dns_ms: int | None = None
    connect_ms: int | None = None
    tls_ms: int | None = None
    first_byte_ms: int | None = None


class TargetChanged(Message, frozen=True, kw_only=True, tag="TargetChanged.1"):
    """A replica's circuit breaker for a host has opened (until `until`, or longer; `reason` says why) or closed."""

    host: str
    state: Literal["open", "closed"]
    changed_at: datetime
    until: datetime | None = None
    replica: str
    reason: str | None = None


class AttemptFinished(Message, frozen=True, kw_only=True, tag="AttemptFinished.1"):
    """One HTTP call ended, and with "succeeded" or "failed" its task too: nothing will call it in this generation.

    Durations in ms; `response_body` is what was read of it, at most 8 KiB.
    `error` is a class from a closed list (`services/dispatcher/outcome.py`); None when the answer was a success.
    `next_attempt_at` is set exactly when `outcome` is "retry". `host` is `host[:port]` as the URL writes it.
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
    timing: Timing | None = None
    host: str = ""


CANCELLED_WHEN_DUE = "cancelled when it was due"
"""The scheduler's reason where a copy of the task may be on its way to be called: only the dispatcher stops that."""


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


class ServiceSeen(Message, frozen=True, kw_only=True, tag="ServiceSeen.1"):
    """A heartbeat: this process works, or ends now (`is_last`). `vitals` are some of its metrics, by short names.

    It has a queue of its own: the release before reads no such event, and would park each.
    """

    service: str
    replica: str
    version: str
    started_at: datetime
    at: datetime
    vitals: dict[str, float] = {}
    is_last: bool = False


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


class Tally(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Failures alike: `count` with the newest, which stands in `failed` at the same place.

    `is_new`: the digest before had none of this kind.
    """

    count: int
    first_at: datetime
    last_at: datetime
    is_new: bool = False


class NoticeTally(msgspec.Struct, frozen=True, kw_only=True):
    """Notices of one project under one subject that found no room in full."""

    project: str
    subject: str
    count: int


class DigestPage(Message, frozen=True, kw_only=True, tag="DigestPage.1"):
    """One mail to send. `Message-ID` and `Date` come from here, so that a redelivery is the same mail.

    `failed` has one task of each kind, counted by the tally at the same place; without `tallies` it has all there are.
    `failed_more` and `notices_more` found no room even as a kind; `unreadable` entries are in parking. `recipients`
    are those of the settings when there are none. `is_urgent`: one task, told at once.
    """

    id: UUID
    created_at: datetime
    number: int
    tries: int = 0
    failed: tuple[FailedTask, ...] = ()
    notices: tuple[Notice, ...] = ()
    tallies: tuple[Tally, ...] = ()
    failed_more: int = 0
    notice_tallies: tuple[NoticeTally, ...] = ()
    notices_more: int = 0
    unreadable: int = 0
    recipients: tuple[str, ...] = ()
    is_urgent: bool = False


class LastDigest(Message, frozen=True, kw_only=True, tag="LastDigest.1"):
    """mailer -> itself: when the last digest was collected, and the causes in it, each as 16 hex digits."""

    collected_at: datetime
    causes: tuple[str, ...] = ()


class AskDigest(Message, frozen=True, kw_only=True, tag="AskDigest.1"):
    """ingest -> mailer, answered by `DigestAnswer`: collect and send now, or only say how things stand."""

    command_id: UUID
    action: Literal["now", "status"]


class DigestAnswer(Message, frozen=True, kw_only=True, tag="DigestAnswer.1"):
    """mailer -> who asked.

    `collected`: the entries that waited are in `pages` mails in the outbox, none when nothing waited. `busy`: another
    replica collects. `status`: nothing was done. `last_at` is when a digest was last collected, None when nobody knows.
    `to` reads it, but for the parts of the projects in `to_projects`, which have readers of their own.
    """

    command_id: UUID
    result: Literal["collected", "busy", "status"]
    waiting: int
    pages: int = 0
    next_at: datetime
    last_at: datetime | None = None
    to: tuple[str, ...] = ()
    to_projects: dict[str, tuple[str, ...]] = {}


Event = TaskAccepted | TaskConflict | AttemptFinished | TaskFinished | TaskParked | TargetChanged
FallbackEntry = FailedTask | Notice
TaskCommand = CancelTask | RescheduleTask
ScheduleCommand = PutSchedule | ChangeSchedule | ListSchedules
SchedulerCommand = TaskCommand | ScheduleCommand
SchedulerAnswer = TaskAnswer | ScheduleAnswer | ScheduleList
DispatcherCommand = SetControl | CancelTask
DispatcherAnswer = ControlAnswer | CancelAnswer
Command = SchedulerCommand | DispatcherCommand | AskDigest
Answer = SchedulerAnswer | DispatcherAnswer | DigestAnswer
AnyMessage = (
    CreateTask | ReturnTask | Command | Answer | TaskDue | Event | ServiceSeen | FallbackEntry | DigestPage | LastDigest
)

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
