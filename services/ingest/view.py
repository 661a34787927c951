"""How a task and its attempts look to a client: plain values, times as text, payloads as they came."""

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from libs.common.clock import format_utc
from libs.common.contracts import Call, Timing, decode_call
from services.ingest.curl import curl_command
from services.ingest.requests import Callbacks, Expect, Retry
from services.ingest.stored import LastAttempt, StoredAttempt, StoredTask

_timing = msgspec.json.Decoder(Timing).decode
_headers = msgspec.json.Decoder(list[tuple[str, str]]).decode


class LastAttemptView(msgspec.Struct, frozen=True):
    number: int
    status_code: int | None
    error: str | None
    duration_ms: int


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """The Task of the API: what was sent, and what became of it. At most one of the three bodies is there."""

    id: UUID
    project: str
    status: str
    url: str
    method: str
    headers: Mapping[str, str]
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_text: str | msgspec.UnsetType = msgspec.UNSET
    body_base64: str | msgspec.UnsetType = msgspec.UNSET
    content_type: str | None
    timeout_s: float
    created_at: str
    due_at: str
    expires_at: str | None
    retry: Retry
    expect: Expect
    labels: Mapping[str, str]
    callbacks: Callbacks
    attempt_count: int
    next_attempt_at: str | None
    first_attempt_at: str | None
    finished_at: str | None
    lateness_ms: int | None
    last_attempt: LastAttemptView | None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `response_headers` in order, repeated ones too; the body as text when it is UTF-8."""

    generation: int
    number: int
    started_at: str
    lateness_ms: int
    duration_ms: int
    status_code: int | None
    error: str | None
    error_detail: str | None
    next_attempt_at: str | None
    timing: Timing | None
    response_headers: list[tuple[str, str]]
    response_body: str | msgspec.UnsetType = msgspec.UNSET
    response_body_base64: str | msgspec.UnsetType = msgspec.UNSET
    curl: str


class AttemptList(msgspec.Struct, frozen=True, kw_only=True):
    """Oldest first."""

    data: list[AttemptView]
    next_cursor: str | None = None


class _Body(NamedTuple):
    json: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    base64: str | msgspec.UnsetType = msgspec.UNSET


def task_view(task: StoredTask, now: datetime) -> TaskView:
    return TaskView(
        id=task.id,
        project=task.project,
        status=status(task, now),
        created_at=format_utc(task.created_at),
        due_at=format_utc(task.due_at),
        expires_at=_time(task.expires_at),
        attempt_count=task.last_attempt.number if task.last_attempt else 0,
        next_attempt_at=_time(_next_attempt_at(task)),
        first_attempt_at=_time(task.first_attempt_at),
        finished_at=_time(task.finished_at),
        lateness_ms=task.lateness_ms,
        last_attempt=_last_attempt(task.last_attempt),
        **sent(_call(task), task.labels),
    )


def sent(call: Call, labels: Mapping[str, str]) -> dict[str, Any]:
    """What of a task its client wrote, without its times: the fields of a `requests.TaskTemplate`."""
    content_type = next((value for name, value in call.headers if name.lower() == "content-type"), None)
    body = _body(call.body, content_type)
    return {
        "url": call.url,
        "method": call.method,
        "headers": {name: value for name, value in call.headers if name.lower() != "content-type"},
        "body": body.json,
        "body_text": body.text,
        "body_base64": body.base64,
        "content_type": content_type,
        "timeout_s": call.timeout_s,
        "retry": Retry(schedule_s=call.schedule_s, respect_retry_after=call.respect_retry_after),
        "expect": Expect(status=call.expect_status, body_contains=call.expect_body_contains),
        "labels": labels,
        "callbacks": Callbacks(success=call.callback_success, failure=call.callback_failure),
    }


def attempt_views(task: StoredTask, attempts: Iterable[StoredAttempt]) -> list[AttemptView]:
    curl = curl_command(_call(task))
    return [_attempt_view(attempt, curl) for attempt in attempts]


def _call(task: StoredTask) -> Call:
    """Of a task that was purged, one that says nothing."""
    return decode_call(task.call) if task.has_payload else Call(url="")


def _attempt_view(attempt: StoredAttempt, curl: str) -> AttemptView:
    text = _as_text(attempt.response_body)
    return AttemptView(
        generation=attempt.generation,
        number=attempt.number,
        started_at=format_utc(attempt.started_at),
        lateness_ms=round((attempt.started_at - attempt.due_at).total_seconds() * 1000),
        duration_ms=attempt.duration_ms,
        status_code=attempt.status_code,
        error=attempt.error,
        error_detail=attempt.error_detail,
        next_attempt_at=_time(attempt.next_attempt_at),
        timing=None if attempt.timing is None else _timing(attempt.timing),
        response_headers=_headers(attempt.response_headers),
        response_body=msgspec.UNSET if text is None else text,
        response_body_base64=_as_base64(attempt.response_body) if text is None else msgspec.UNSET,
        curl=curl,
    )


def status(task: StoredTask, now: datetime) -> str:
    """`due` is in no event: it is what a scheduled task is once its time has passed."""
    return "due" if task.state == "scheduled" and task.due_at < now else task.state


def _next_attempt_at(task: StoredTask) -> datetime | None:
    match task.state:
        case "scheduled":
            return task.due_at
        case "retrying":
            return task.state_at
        case _:
            return None


def _last_attempt(last: LastAttempt | None) -> LastAttemptView | None:
    return None if last is None else LastAttemptView(*last)


def _body(body: bytes, content_type: str | None) -> _Body:
    """In the field it was most likely sent in: JSON stays JSON, text stays text."""
    if not body:
        return _Body()
    text = _as_text(body)
    if text is None:
        return _Body(base64=_as_base64(body))
    return _Body(json=msgspec.Raw(body)) if _is_json(body, content_type) else _Body(text=text)


def _is_json(body: bytes, content_type: str | None) -> bool:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        return False
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _as_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def _as_base64(body: bytes) -> str:
    return base64.b64encode(body).decode()


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)
