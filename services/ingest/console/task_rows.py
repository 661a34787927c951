"""What a list of tasks shows of each, as values for its template. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from services.ingest.store_lists import ListedTask
from services.ingest.stored import StoredTask
from services.ingest.view import status

URL_CHARS_MAX = 100

MEANING: Mapping[str, str] = {
    "scheduled": "waits for its time",
    "due": "its time has come, and its first call has not ended yet",
    "retrying": "a call failed, and there will be another",
    "succeeded": "a call succeeded",
    "failed": "no retry was left, or the answer forbade any; reported by mail",
    "cancelled": "taken back before it was called",
    "expired": "its moment of expiry passed before a call succeeded",
    "parked": "a service could not process it; see Dead letters",
}
"""Of each status that a list can show. `delivering` is in no event: such a task is shown as due, or as retrying."""


class Row(NamedTuple):
    """`late_ms`: how late its first call was; `overdue_ms`: how late it is already. `url` is without its query."""

    id: UUID
    status: str
    method: str
    host: str
    path: str
    due_at: datetime
    late_ms: int | None
    overdue_ms: float | None
    attempts: str
    result: str
    next_at: datetime | None
    is_bad: bool


class _Ladder(msgspec.Struct):
    schedule_s: tuple[float, ...] | None = None


_ladder_of = msgspec.json.Decoder(_Ladder).decode


def row(listed: ListedTask, call: bytes | None, now: datetime) -> Row:
    task, last = listed.task, listed.task.last_attempt
    is_overdue = task.state == "scheduled" and task.due_at < now
    host, path = _host_and_path(listed.url)
    return Row(
        id=task.id,
        status=status(task, now),
        method=listed.method,
        host=host,
        path=path,
        due_at=task.due_at,
        late_ms=task.lateness_ms,
        overdue_ms=(now - task.due_at).total_seconds() * 1000 if is_overdue and task.lateness_ms is None else None,
        attempts=_attempts(task, call),
        result=_result(task),
        next_at=task.state_at if task.state == "retrying" else None,
        is_bad=last is not None and last.error is not None,
    )


def _attempts(task: StoredTask, call: bytes | None) -> str:
    """Of how many, where the task has a ladder of its own: that of the installation is the dispatcher's to know."""
    number = task.last_attempt.number if task.last_attempt else 0
    try:
        steps = _ladder_of(call).schedule_s if call else None
    except msgspec.DecodeError:
        steps = None
    return str(number) if steps is None else f"{number}/{len(steps) + 1}"


def _result(task: StoredTask) -> str:
    last = task.last_attempt
    if last is None:
        return task.reason if task.state in {"cancelled", "expired", "parked"} else ""
    return " ".join(str(part) for part in (last.status_code, last.error) if part is not None)


def _host_and_path(url: str) -> tuple[str, str]:
    """A query may hold what is nobody's business: that there is one is enough."""
    if not url:
        return "", ""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", url[:URL_CHARS_MAX]
    path = (parts.path or "/") + ("?…" if parts.query else "")
    return parts.netloc, path if len(path) <= URL_CHARS_MAX else f"{path[:URL_CHARS_MAX]}…"
