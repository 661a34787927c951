"""How a task and its calls look to a person."""

from typing import Any

from carillon.command.show import Column, Output, distance, moment, safe, safe_lines, status
from carillon.models import Attempt, Task


def _last(task: Task) -> str | None:
    last = task.last_attempt
    return None if last is None else " ".join(str(part) for part in (last.status_code, last.error) if part is not None)


def _moment_and_distance(at: Any) -> str | None:
    return None if at is None else f"{moment(at)} ({distance(at)})"


def _ms(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else f"{milliseconds} ms"


COLUMNS = (
    Column("ID", lambda task: task.id),
    Column("STATUS", lambda task: status(task.status)),
    Column("DUE", lambda task: task.due_at),
    Column("CALLS", lambda task: task.attempt_count),
    Column("LAST", _last),
    Column("URL", lambda task: task.url, folds=True),
    Column("LABELS", lambda task: task.labels, folds=True),
)
ATTEMPT_COLUMNS = (
    Column("CALL", lambda attempt: attempt.number),
    Column("STARTED", lambda attempt: attempt.started_at),
    Column("STATUS", lambda attempt: attempt.status_code),
    Column("ERROR", lambda attempt: attempt.error),
    Column("TOOK", lambda attempt: _ms(attempt.duration_ms)),
    Column("LATE", lambda attempt: _ms(attempt.lateness_ms)),
    Column("NEXT", lambda attempt: attempt.next_attempt_at),
)


def explanation_columns(heading: str) -> tuple[Column, ...]:
    return (Column(heading, lambda part: part.code), Column("", lambda part: part.detail, folds=True))


def card(task: Task) -> dict[str, object]:
    """What a person wants to know of a task."""
    return {
        "id": task.id,
        "status": status(task.status),
        "call": f"{task.method} {task.url}",
        "due": _moment_and_distance(task.due_at),
        "next call": None if task.next_attempt_at == task.due_at else _moment_and_distance(task.next_attempt_at),
        "calls": task.attempt_count or None,
        "last": _last(task),
        "finished": _moment_and_distance(task.finished_at),
        "late": _ms(task.lateness_ms),
        "expires": task.expires_at,
        "labels": task.labels,
    }


def show_answer(out: Output, attempt: Attempt) -> None:
    """What the receiver answered, as it would stand on the wire; or why there was no answer."""
    took = _ms(attempt.duration_ms)
    if attempt.status_code is None:
        out.line(safe(f"no answer: {attempt.error} after {took} {attempt.error_detail or ''}".rstrip()))
        return
    error = f", {attempt.error}" if attempt.error else ""
    out.line(safe(f"HTTP {attempt.status_code}{error}, after {took}"))
    for name, value in attempt.response_headers:
        out.line(safe(f"{name}: {value}"))
    body = attempt.response_body if attempt.response_body is not None else attempt.response_body_base64
    if body:
        out.line(f"\n{safe_lines(body)}")
