"""From what a client asked for to the task that travels. Pure: the same input gives the same task.

Collects everything that is wrong, so that one answer is enough to correct it all.
"""

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from libs.common.clock import from_ms, to_ms
from libs.common.contracts import Call, Task, encode
from libs.common.egress import EgressRules
from services.ingest.limits import expect_errors, label_errors, retry_errors, timeout_errors
from services.ingest.problems import FieldError, invalid
from services.ingest.requests import Callbacks, Expect, LocalTime, NewTask, NewTime, Retry, TaskTemplate
from services.ingest.target import content_type_errors, header_errors, url_errors
from services.ingest.times import BadTime, parse_delay, parse_local, parse_moment

_NO_BODY = (b"", b"null")


class Sender(NamedTuple):
    """What of a task its client does not write into the body."""

    id: UUID
    project: str
    fingerprint: str
    now: datetime
    traceparent: str | None = None
    expect_json_success: bool = False


class _Body(NamedTuple):
    content: bytes
    content_type: str | None


def create(new: NewTask, sender: Sender, egress: EgressRules) -> Task:
    """The task, first attempt, first generation. Raises: Problem (422) with every error."""
    errors: list[FieldError] = []
    due_at = due_time(new, sender.now, errors)
    expires_at = _expires_at(new, due_at, sender.now, errors)
    call = call_of(new, egress, errors, traceparent=sender.traceparent, expect_json_success=sender.expect_json_success)
    if errors:
        raise invalid(errors)
    return Task(
        id=sender.id,
        project=sender.project,
        created_at=sender.now,
        due_at=due_at,
        expires_at=expires_at,
        fingerprint=sender.fingerprint,
        labels=new.labels,
        call=msgspec.Raw(encode(call)),
    )


def this_millisecond(moment: datetime) -> datetime:
    """The whole millisecond that `moment` lies in: what the wire can carry."""
    return from_ms(to_ms(moment))


def call_of(
    new: TaskTemplate,
    egress: EgressRules,
    errors: list[FieldError],
    *,
    traceparent: str | None = None,
    expect_json_success: bool = False,
) -> Call:
    """Of use only when no `errors` came."""
    body = _body(new, errors)
    errors += _errors(new, egress)
    retry, expect, callbacks = new.retry or Retry(), new.expect or Expect(), new.callbacks or Callbacks()
    return Call(
        url=new.url,
        method=new.method,
        headers=tuple(_headers(new.headers, new.content_type or body.content_type).items()),
        body=body.content,
        timeout_s=new.timeout_s,
        schedule_s=retry.schedule_s,
        respect_retry_after=retry.respect_retry_after,
        expect_status=expect.status,
        expect_body_contains=expect.body_contains,
        expect_json_success=expect_json_success,
        traceparent=traceparent,
        callback_success=callbacks.success,
        callback_failure=callbacks.failure,
    )


def due_time(new: NewTask | NewTime, now: datetime, errors: list[FieldError]) -> datetime:
    """Now when none is given, when it has passed, and when it is wrong (which `errors` then says)."""
    given = [name for name in ("due_at", "delay", "local_time") if getattr(new, name) is not None]
    errors += [FieldError(f"/{name}", "conflict", f"stands beside {given[0]}; give one of them") for name in given[1:]]
    if new.due_at is not None:
        return max(now, read_time("due_at", parse_moment, new.due_at, now, errors) or now)
    if new.delay is not None:
        return read_time("delay", parse_delay, new.delay, now, errors) or now
    if new.local_time is not None:
        return max(now, _local_time(new.local_time, now, errors) or now)
    return now


def read_time(
    field: str,
    parse: Callable[[str | float, datetime], datetime],
    value: str | float,
    now: datetime,
    errors: list[FieldError],
) -> datetime | None:
    """What `field` says; None when that is wrong."""
    try:
        return parse(value, now)
    except BadTime as error:
        errors.append(FieldError(f"/{field}", error.code, error.detail))
        return None


def _headers(headers: Mapping[str, str], content_type: str | None) -> Mapping[str, str]:
    if content_type is None or any(name.lower() == "content-type" for name in headers):
        return headers
    return {**headers, "Content-Type": content_type}


def _local_time(local: LocalTime, now: datetime, errors: list[FieldError]) -> datetime | None:
    try:
        return parse_local(local.at, local.timezone, now)
    except BadTime as error:
        field = "timezone" if error.code == "unknown_zone" else "at"
        errors.append(FieldError(f"/local_time/{field}", error.code, error.detail))
        return None


def _expires_at(new: NewTask, due_at: datetime, now: datetime, errors: list[FieldError]) -> datetime | None:
    if new.expires_at is None:
        return None
    expires_at = read_time("expires_at", parse_moment, new.expires_at, now, errors)
    if expires_at is not None and expires_at <= due_at:
        detail = "is not after the task is due, so it would never be called; give a later time"
        errors.append(FieldError("/expires_at", "too_early", detail))
    return expires_at


def _body(new: TaskTemplate, errors: list[FieldError]) -> _Body:
    raw = bytes(new.body)
    if new.body_text is None and new.body_base64 is None:
        return _Body(b"", None) if raw in _NO_BODY else _Body(raw, "application/json")
    given = {"body": raw not in _NO_BODY, "body_text": new.body_text, "body_base64": new.body_base64}
    names = [name for name, value in given.items() if value not in (None, False)]
    errors += [FieldError(f"/{name}", "conflict", f"stands beside {names[0]}; give one of them") for name in names[1:]]
    if new.body_text is not None:
        return _Body(new.body_text.encode(), "text/plain; charset=utf-8")
    assert new.body_base64 is not None
    return _Body(_from_base64(new.body_base64, errors), "application/octet-stream")


def _from_base64(text: str, errors: list[FieldError]) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        detail = "is no base64; use the alphabet of RFC 4648 section 4, with padding"
        errors.append(FieldError("/body_base64", "bad_base64", detail))
        return b""


def _errors(new: TaskTemplate, egress: EgressRules) -> Iterator[FieldError]:
    yield from url_errors(new.url, egress)
    yield from timeout_errors(new.timeout_s)
    if new.headers:
        yield from header_errors(new.headers)
    if new.content_type is not None:
        yield from content_type_errors(new.content_type, new.headers)
    if new.retry is not None:
        yield from retry_errors(new.retry)
    if new.expect is not None:
        yield from expect_errors(new.expect)
    if new.labels:
        yield from label_errors(new.labels)
    if new.callbacks is not None:
        yield from _callback_errors(new.callbacks, egress)


def _callback_errors(callbacks: Callbacks, egress: EgressRules) -> Iterator[FieldError]:
    for name in ("success", "failure"):
        url = getattr(callbacks, name)
        if url is not None:
            yield from url_errors(url, egress, f"/callbacks/{name}")
