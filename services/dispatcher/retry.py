"""From an outcome to a verdict: done, on which rung to wait, or failed for good. Pure, but for the dice handed in."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import accumulate

import msgspec

from libs.common.contracts import AttemptFinished, Call, Task
from libs.common.host import host_of
from libs.common.topology import rung_ms
from services.dispatcher.outcome import Answer, Outcome, judge

RETRY_AFTER_MAX_S = 24 * 3600.0
# Only on steps that are on no rung: a rung's delay is exact.
JITTER = 0.10
_MS = timedelta(milliseconds=1)
RESPONSE_BODY_KEPT = 8 * 1024
# A caller takes 64 KiB of them: a few thousand such answers would fill ingest.history.
RESPONSE_HEADERS_KEPT = 16 * 1024


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The call succeeded."""

    event: AttemptFinished


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    """Call again at `not_before`; on the rung of `wait_ms`, or by the scheduler when that is None."""

    event: AttemptFinished
    not_before: datetime
    wait_ms: int | None


class Fail(msgspec.Struct, frozen=True, tag="fail"):
    """No call will follow; a person is told."""

    event: AttemptFinished


class Expire(msgspec.Struct, frozen=True, tag="expire"):
    """`expires_at` has passed; no call was made."""

    at: datetime


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Somebody has cancelled the task; `event` of the call that was under way then, which did not succeed."""

    at: datetime
    event: AttemptFinished | None = None


Verdict = Done | Retry | Fail | Expire | Cancel


Judged = Done | Retry | Fail
"""Of a call that was made."""


def cancelled_meanwhile(verdict: Retry | Fail, at: datetime) -> Cancel:
    """In place of the verdict on a call during which somebody cancelled the task."""
    return Cancel(at, msgspec.structs.replace(verdict.event, outcome="failed", next_attempt_at=None))


class Ladder:
    """The dispatcher's own delays, and which of all delays have a rung. `dice` gives 0 <= x < 1."""

    def __init__(self, schedule_s: Sequence[float], dice: Callable[[], float]) -> None:
        self._schedule_s = tuple(schedule_s)
        self._rungs_ms = frozenset(rung_ms(delay_s) for delay_s in schedule_s)
        self._dice = dice

    @property
    def rungs_ms(self) -> frozenset[int]:
        return self._rungs_ms

    @property
    def shortest_ms(self) -> int | None:
        return min(self._rungs_ms, default=None)

    def attempts_max(self, call: Call) -> int:
        return len(self._steps(call)) + 1

    def longest_wait_s(self, call: Call) -> float:
        """How long a retry of this call may wait at most."""
        ours = max(self._steps(call), default=0.0)
        return max(ours, RETRY_AFTER_MAX_S) if call.respect_retry_after else ours

    def decide(self, task: Task, call: Call, answer: Answer, due_at: datetime, now: datetime, replica: str) -> Judged:
        """The verdict on attempt `task.attempt`, which was due at `due_at` and has just been answered."""
        outcome = judge(call, answer)
        if outcome.kind == "succeeded":
            return Done(_event(task, call, answer, outcome, due_at, replica))
        steps = self._steps(call)
        if outcome.kind == "failed" or task.attempt > len(steps):
            final = Outcome("failed", outcome.error, outcome.detail)
            return Fail(_event(task, call, answer, final, due_at, replica))
        wait_ms, delay_s = self._wait(steps[task.attempt - 1], call, answer, now)
        not_before = _whole_ms(now + timedelta(seconds=delay_s))
        return Retry(_event(task, call, answer, outcome, due_at, replica, not_before), not_before, wait_ms)

    def _wait(self, step_s: float, call: Call, answer: Answer, now: datetime) -> tuple[int | None, float]:
        asked_s = retry_after_s(answer, now) if call.respect_retry_after else 0.0
        if asked_s > step_s:
            return None, asked_s
        if rung_ms(step_s) in self._rungs_ms:
            return rung_ms(step_s), step_s
        return None, step_s * (1 + JITTER * self._dice())

    def _steps(self, call: Call) -> tuple[float, ...]:
        return self._schedule_s if call.schedule_s is None else call.schedule_s


def retry_after_s(answer: Answer, now: datetime) -> float:
    """Seconds that the receiver asks us to wait, capped at 24 h; 0 when it does not, or unreadably.

    Source: RFC 9110 section 10.2.3 (delay-seconds, or an HTTP date).
    """
    text = (answer.header("retry-after") or "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_MAX_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


def _event(
    task: Task,
    call: Call,
    answer: Answer,
    outcome: Outcome,
    due_at: datetime,
    replica: str,
    next_at: datetime | None = None,
) -> AttemptFinished:
    return AttemptFinished(
        id=task.id,
        project=task.project,
        generation=task.generation,
        attempt=task.attempt,
        hop=task.hop,
        due_at=due_at,
        started_at=answer.started_at,
        duration_ms=answer.duration_ms,
        outcome=outcome.kind,
        status_code=answer.status_code,
        error=outcome.error,
        error_detail=outcome.detail,
        next_attempt_at=next_at,
        response_headers=_first_headers(answer.headers),
        response_body=answer.body[:RESPONSE_BODY_KEPT],
        replica=replica,
        timing=msgspec.structs.replace(answer.timing, queue_ms=_queue_ms(answer, due_at)),
        host=host_of(call.url),
    )


def _queue_ms(answer: Answer, due_at: datetime) -> int:
    return max(round((answer.started_at - due_at) / _MS), 0)


def _first_headers(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    if not headers:
        return ()
    sizes = accumulate(len(name) + len(value) for name, value in headers)
    return tuple(header for header, size in zip(headers, sizes, strict=True) if size <= RESPONSE_HEADERS_KEPT)


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=0) + timedelta(milliseconds=math.ceil(moment.microsecond / 1000))
