"""What is sent: the fields of a task, a schedule and a filter as Python writes them, and as JSON has them.

Names are the API's, so its documentation holds here too. Unknown ones are sent as they are: the server is the judge.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

Moment = datetime | str | float
"""An aware datetime, RFC 3339 with an offset, or unix seconds."""

Length = timedelta | str | float
"""A timedelta, seconds, `90s` `5m` `2h` `1d`, or ISO 8601 (`PT5M`)."""


class LocalTime(TypedDict):
    """What clocks in `timezone` (an IANA name) show: `{"at": "2027-03-28T02:30:00", "timezone": "Europe/Paris"}`."""

    at: str
    timezone: str


class Retry(TypedDict, total=False):
    """`schedule_s`: seconds before each repeat; None means the ladder of the installation, [] never."""

    schedule_s: Sequence[float] | None
    respect_retry_after: bool


class Expect(TypedDict, total=False):
    """What counts as success: classes (`2xx`) or codes (`204`), and a text that the answer must contain."""

    status: Sequence[str]
    body_contains: str | None


class Callbacks(TypedDict, total=False):
    """URLs that get the finished task, as a task of their own."""

    success: str | None
    failure: str | None


class CallFields(TypedDict, total=False):
    """The call that is made. At most one body; `body` becomes JSON, `body_bytes` is sent as it is."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
    headers: Mapping[str, str]
    body: Any
    body_text: str
    body_bytes: bytes
    body_base64: str
    content_type: str
    timeout_s: float
    retry: Retry
    expect: Expect
    labels: Mapping[str, str]
    callbacks: Callbacks


class TaskFields(CallFields, total=False):
    """And when: at most one of `due_at`, `delay`, `local_time`; none means now."""

    due_at: Moment
    delay: Length
    local_time: LocalTime
    expires_at: Moment


class NewTask(TaskFields):
    """One task of a batch."""

    url: str


class Template(CallFields):
    """The task that a schedule makes each time."""

    url: str


class NewTime(TypedDict, total=False):
    """Another time for a task: exactly one."""

    due_at: Moment
    delay: Length
    local_time: LocalTime


class WhenFields(TypedDict, total=False):
    """When a schedule comes: one of `cron` (5 fields, or 6 with the seconds first) and `every`."""

    cron: str
    every: Length
    timezone: str
    start_at: Moment
    end_at: Moment


class ScheduleFields(WhenFields, total=False):
    """`catch_up` is for what was missed while no scheduler ran; `expires_after_s` counts from each occurrence."""

    catch_up: Literal["latest", "all", "none"]
    expires_after_s: float
    task: Template


class TaskFilter(TypedDict, total=False):
    """Which tasks: all that is given must hold; of several statuses one. From: at or after it; to: before it."""

    status: str | Sequence[str]
    labels: Mapping[str, str]
    url_prefix: str
    host: str
    due_from: Moment
    due_to: Moment
    created_from: Moment
    created_to: Moment
    ended_from: Moment
    ended_to: Moment
    schedule: str


_MOMENTS = (
    "due_at", "expires_at", "start_at", "end_at", "due_from", "due_to", "created_from", "created_to", "ended_from",
    "ended_to",
)  # fmt: skip


def wire(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` as JSON has them; None counts as not given. Raises: ValueError for a datetime without an offset."""
    sent = {name: value for name, value in fields.items() if value is not None}
    for name in sent.keys() & _MOMENTS:
        sent[name] = moment(name, sent[name])
    if isinstance(sent.get("delay"), timedelta):
        sent["delay"] = sent["delay"].total_seconds()
    if isinstance(sent.get("every"), timedelta):
        sent["every"] = f"{sent['every'].total_seconds():.15g}s"
    if "body_bytes" in sent:
        sent["body_base64"] = base64.b64encode(sent.pop("body_bytes")).decode()
    if isinstance(sent.get("task"), Mapping):
        sent["task"] = wire(sent["task"])
    return sent


def moment(name: str, value: Moment) -> str | float:
    """Raises: ValueError, because a time without an offset is one of many."""
    if not isinstance(value, datetime):
        return value
    if value.utcoffset() is None:
        raise ValueError(f"{name} has no offset from UTC: give it a tzinfo, as datetime.now(timezone.utc) has")
    return value.isoformat()


def query(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A filter as the names and texts of a list's query: labels as `label.order=42`."""
    sent = wire(fields)
    if not isinstance(sent.get("status", ""), str):
        sent["status"] = ",".join(sent["status"])
    labels: Mapping[str, str] = sent.pop("labels", {})
    return [(name, str(value)) for name, value in sent.items()] + [
        (f"label.{name}", value) for name, value in labels.items()
    ]
