"""Values as rows, in the order of the columns that `store.py` writes. Pure; the SQL stands there."""

from datetime import UTC, date

import msgspec

from libs.common.contracts import AttemptFinished, TargetChanged, Task
from libs.common.intake import UNREADABLE
from services.ingest.projection import TaskHistory, first_order, last_order, lateness_ms, storable

# The index of URLs takes no longer ones; as in the migration.
URL_BYTES_MAX, URL_CHARS_KEPT = 2_000, 500


class _Told(msgspec.Struct, frozen=True):
    """The part of a `Call` that lists show."""

    url: str
    method: str = "POST"


_told_of = msgspec.json.Decoder(_Told).decode


def day_of(attempt: AttemptFinished) -> date:
    return attempt.started_at.astimezone(UTC).date()


def task_row(history: TaskHistory) -> tuple[object, ...]:
    mark = history.state
    state = (mark.name, mark.order, mark.at, mark.reason)
    return (
        history.id,
        history.project,
        *state,
        *_accepted(history.accepted),
        *_last(history.last),
        *_first(history.first),
    )


def attempt_row(event: AttemptFinished) -> tuple[object, ...]:
    return (
        event.id,
        event.generation,
        event.attempt,
        day_of(event),
        event.hop,
        event.due_at,
        event.started_at,
        event.duration_ms,
        event.outcome,
        event.status_code,
        event.error and storable(event.error),
        event.error_detail and storable(event.error_detail),
        event.next_attempt_at,
        msgspec.json.encode(event.response_headers),
        event.response_body,
        storable(event.replica),
        event.timing and msgspec.json.encode(event.timing),
    )


def target_row(event: TargetChanged) -> tuple[object, ...]:
    told = (storable(event.host), storable(event.replica), event.state, event.changed_at, event.until)
    return (*told, event.reason and storable(event.reason))


def _accepted(task: Task | None) -> tuple[object, ...]:
    if task is None:
        return (0, None, None, None, None, None, None, None, None, None)
    labels = msgspec.json.encode(task.labels).decode()
    url, method = _url_and_method(task.call)
    return (
        task.generation,
        task.created_at,
        task.due_at,
        task.expires_at,
        task.fingerprint,
        labels,
        bytes(task.call),
        url,
        method,
        task.schedule and storable(task.schedule),
    )


def _url_and_method(call: msgspec.Raw) -> tuple[str, str]:
    """What lists show of a call; empty where it cannot be read."""
    try:
        told = _told_of(call)
    except UNREADABLE:
        return "", ""
    url = told.url if len(told.url.encode(errors="replace")) <= URL_BYTES_MAX else told.url[:URL_CHARS_KEPT]
    return storable(url), storable(told.method)


def _last(attempt: AttemptFinished | None) -> tuple[object, ...]:
    if attempt is None:
        return (0, 0, None, None, None, None)
    return (
        last_order(attempt),
        attempt.attempt,
        attempt.started_at,
        attempt.status_code,
        attempt.error and storable(attempt.error),
        attempt.duration_ms,
    )


def _first(attempt: AttemptFinished | None) -> tuple[object, ...]:
    if attempt is None:
        return (0, None, None)
    return (first_order(attempt), attempt.started_at, lateness_ms(attempt))
