"""From what a client asked for to the task that travels. Pure: the same input gives the same task.

Collects everything that is wrong, so that one answer is enough to correct it all.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from libs.common.contracts import Call, Task, encode
from services.ingest.problems import FieldError, invalid
from services.ingest.requests import Expect, NewTask, Retry, escaped
from services.ingest.target import content_type_errors, header_errors, url_errors
from services.ingest.times import BadTime, parse_delay, parse_moment

TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.1, 60.0
RETRIES_MAX = 50
RETRY_DELAY_S_MAX = 7 * 86_400
STATUSES_MAX = 20
BODY_CONTAINS_CHARS_MAX = 1024
LABELS_MAX = 16
LABEL_NAME_CHARS_MAX, LABEL_VALUE_CHARS_MAX = 64, 256

_STATUS = re.compile(r"[1-5](xx|[0-9][0-9])")
_LABEL_NAME = re.compile(r"[A-Za-z0-9_./-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # PostgreSQL's jsonb refuses NUL, and the others help nobody
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


def create(new: NewTask, sender: Sender) -> Task:
    """The task, first attempt, first generation. Raises: Problem (422) with every error."""
    errors: list[FieldError] = []
    due_at = _due_at(new, sender.now, errors)
    expires_at = _expires_at(new, due_at, sender.now, errors)
    body = _body(new, errors)
    errors += _errors(new)
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
        call=msgspec.Raw(encode(_call(new, body, sender))),
    )


def _call(new: NewTask, body: _Body, sender: Sender) -> Call:
    retry, expect = new.retry or Retry(), new.expect or Expect()
    return Call(
        url=new.url,
        method=new.method,
        headers=tuple(_headers(new.headers, new.content_type or body.content_type).items()),
        body=body.content,
        timeout_s=new.timeout_s,
        schedule_s=None if retry.schedule_s is None else tuple(retry.schedule_s),
        respect_retry_after=retry.respect_retry_after,
        expect_status=tuple(expect.status),
        expect_body_contains=expect.body_contains,
        expect_json_success=sender.expect_json_success,
        traceparent=sender.traceparent,
    )


def _headers(headers: Mapping[str, str], content_type: str | None) -> Mapping[str, str]:
    if content_type is None or any(name.lower() == "content-type" for name in headers):
        return headers
    return {**headers, "Content-Type": content_type}


def _due_at(new: NewTask, now: datetime, errors: list[FieldError]) -> datetime:
    """Now when none is given, when it has passed, and when it is wrong (which `errors` then says)."""
    if new.due_at is not None and new.delay is not None:
        errors.append(FieldError("/delay", "conflict", "stands beside due_at; give one of them"))
    if new.due_at is not None:
        return max(now, _time("due_at", parse_moment, new.due_at, now, errors) or now)
    if new.delay is not None:
        return _time("delay", parse_delay, new.delay, now, errors) or now
    return now


def _expires_at(new: NewTask, due_at: datetime, now: datetime, errors: list[FieldError]) -> datetime | None:
    if new.expires_at is None:
        return None
    expires_at = _time("expires_at", parse_moment, new.expires_at, now, errors)
    if expires_at is not None and expires_at <= due_at:
        detail = "is not after the task is due, so it would never be called; give a later time"
        errors.append(FieldError("/expires_at", "too_early", detail))
    return expires_at


def _time(
    field: str,
    parse: Callable[[str | float, datetime], datetime],
    value: str | float,
    now: datetime,
    errors: list[FieldError],
) -> datetime | None:
    try:
        return parse(value, now)
    except BadTime as error:
        errors.append(FieldError(f"/{field}", error.code, error.detail))
        return None


def _body(new: NewTask, errors: list[FieldError]) -> _Body:
    raw = bytes(new.body)
    given = {"body": raw not in _NO_BODY, "body_text": new.body_text, "body_base64": new.body_base64}
    names = [name for name, value in given.items() if value not in (None, False)]
    errors += [FieldError(f"/{name}", "conflict", f"stands beside {names[0]}; give one of them") for name in names[1:]]
    if new.body_text is not None:
        return _Body(new.body_text.encode(), "text/plain; charset=utf-8")
    if new.body_base64 is not None:
        return _Body(_from_base64(new.body_base64, errors), "application/octet-stream")
    return _Body(raw, "application/json") if given["body"] else _Body(b"", None)


def _from_base64(text: str, errors: list[FieldError]) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        detail = "is no base64; use the alphabet of RFC 4648 section 4, with padding"
        errors.append(FieldError("/body_base64", "bad_base64", detail))
        return b""


def _errors(new: NewTask) -> Iterator[FieldError]:
    yield from url_errors(new.url)
    yield from header_errors(new.headers)
    yield from content_type_errors(new.content_type, new.headers)
    if not TIMEOUT_S_MIN <= new.timeout_s <= TIMEOUT_S_MAX:
        detail = f"is out of range; give {TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:g} seconds"
        yield FieldError("/timeout_s", "out_of_range", detail)
    yield from _retry_errors(new.retry or Retry())
    yield from _expect_errors(new.expect or Expect())
    yield from _label_errors(new.labels)


def _retry_errors(retry: Retry) -> Iterator[FieldError]:
    schedule_s = retry.schedule_s or []
    if len(schedule_s) > RETRIES_MAX:
        yield FieldError("/retry/schedule_s", "too_many", f"has {len(schedule_s)} steps; give at most {RETRIES_MAX}")
    for index, delay_s in enumerate(schedule_s):
        if not 0 <= delay_s <= RETRY_DELAY_S_MAX:
            detail = f"is out of range; give 0 to {RETRY_DELAY_S_MAX} seconds (a week)"
            yield FieldError(f"/retry/schedule_s/{index}", "out_of_range", detail)


def _expect_errors(expect: Expect) -> Iterator[FieldError]:
    if not 1 <= len(expect.status) <= STATUSES_MAX:
        detail = f"has {len(expect.status)} entries; give 1 to {STATUSES_MAX}, or leave it out for 2xx"
        yield FieldError("/expect/status", "out_of_range", detail)
    for index, status in enumerate(expect.status):
        if not _STATUS.fullmatch(status):
            yield FieldError(f"/expect/status/{index}", "bad_status", "is no status; write a class as 2xx or a code as 204")
    if expect.body_contains is not None and not 1 <= len(expect.body_contains) <= BODY_CONTAINS_CHARS_MAX:
        detail = f"has {len(expect.body_contains)} characters; give 1 to {BODY_CONTAINS_CHARS_MAX}, or leave it out"
        yield FieldError("/expect/body_contains", "out_of_range", detail)


def _label_errors(labels: Mapping[str, str]) -> Iterator[FieldError]:
    if len(labels) > LABELS_MAX:
        yield FieldError("/labels", "too_many", f"are {len(labels)}; give at most {LABELS_MAX}")
    for name, value in labels.items():
        pointer = f"/labels/{escaped(name)}"
        if len(name) > LABEL_NAME_CHARS_MAX or not _LABEL_NAME.fullmatch(name):
            detail = f"is no label name; use at most {LABEL_NAME_CHARS_MAX} letters, digits and _ . / -"
            yield FieldError(pointer, "bad_name", detail)
        if len(value) > LABEL_VALUE_CHARS_MAX:
            yield FieldError(pointer, "too_long", f"has {len(value)} characters; use at most {LABEL_VALUE_CHARS_MAX}")
        if _CONTROL.search(value):
            yield FieldError(pointer, "bad_value", "contains a control character; remove it")
