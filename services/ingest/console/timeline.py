"""The calls of a task as its page tells them: latest first, each with where its time went. Pure.

Latest first, because who looks at 3 a.m. wants to know what is wrong now; the way there is below.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Literal, NamedTuple

import msgspec

from libs.common.contracts import Timing
from services.ingest.console.payload import Payload, payload
from services.ingest.console.redaction import HeaderLine, header_lines
from services.ingest.store_attempts import KeptCall
from services.ingest.stored import StoredAttempt

BODY_KEPT = 8 * 1024
"""As much as the dispatcher keeps of an answer."""
BAR = 1000
BAR_PART_MIN = 12
"""Of the bar's length: a phase that took time can be seen."""

Ended = Literal["succeeded", "retry", "failed"]
Named = tuple[int, int]
"""The generation and number of a call."""

PLAIN: Mapping[str, str] = {
    "dns": "the name of the host could not be resolved",
    "connect": "no connection could be made",
    "tls": "the TLS handshake failed",
    "timeout": "no whole answer came in time",
    "disconnected": "the connection ended before the answer did",
    "protocol": "what came back is no HTTP",
    "blocked_address": "the address is one that may not be called",
    "redirect": "it was answered with a redirect, which is not followed",
    "gone": "the receiver says that this is gone for good",
    "refused_retry": "the receiver asked for no other attempt",
    "client_error": "the receiver refused the request",
    "server_error": "the receiver failed",
    "expectation": "the answer is not what the task expects",
}
"""The classes of errors in plain words."""

_timing = msgspec.json.Decoder(Timing).decode
_headers = msgspec.json.Decoder(list[tuple[str, str]]).decode


class Phase(NamedTuple):
    """A part of a call's time. `x` and `width` place it on a bar of `BAR`; the call's own time is without `queue`."""

    name: str
    text: str
    ms: int
    x: int = 0
    width: int = 0


class Answered(NamedTuple):
    headers: Sequence[HeaderLine]
    body: Payload


class CallView(NamedTuple):
    """`answer` is None when none came, or when it `is_read` not yet. `wait_ms`: from its end to the next attempt."""

    anchor: str
    generation: int
    number: int
    ended: Ended
    started_at: datetime
    lateness_ms: int
    duration_ms: int
    status_code: int | None
    error: str | None
    plain: str
    detail: str
    phases: Sequence[Phase]
    replica: str
    next_attempt_at: datetime | None
    wait_ms: int | None
    answer: Answered | None
    is_read: bool
    is_named: bool

    @property
    def brief(self) -> str:
        """How it ended, in a few words."""
        met = "no answer" if self.status_code is None else f"HTTP {self.status_code}"
        return f"{met}, {self.plain}" if self.plain else met


class Generation(NamedTuple):
    number: int
    calls: Sequence[CallView]


class Timeline(NamedTuple):
    """`now`: the calls of the generation that counts. `before`: those of earlier ones, latest first.

    `named`: the generation of a call that somebody asked to see; 0 for none.
    """

    now: Sequence[CallView]
    before: Sequence[Generation]
    has_more: bool
    named: int

    @property
    def shown(self) -> int:
        return len(self.now) + sum(len(each.calls) for each in self.before)


def timeline(
    calls: Iterable[KeptCall], generation: int, named: Named | None = None, *, has_more: bool = False
) -> Timeline:
    """Of `calls` as the store gives them: latest first."""
    views = [_view(call, named) for call in calls]
    generations = [Generation(number, list(each)) for number, each in groupby(views, key=lambda call: call.generation)]
    now = next((each.calls for each in generations if each.number == generation), ())
    before = [each for each in generations if each.number != generation]
    return Timeline(now, before, has_more, named[0] if named else 0)


def latest(calls: Iterable[KeptCall], generation: int) -> StoredAttempt | None:
    """The last call of the generation that counts."""
    return next((call.attempt for call in calls if call.attempt.generation == generation), None)


def _view(kept: KeptCall, named: Named | None) -> CallView:
    call = kept.attempt
    ended_at = call.started_at + timedelta(milliseconds=call.duration_ms)
    return CallView(
        anchor=f"attempt-{call.generation}-{call.number}",
        generation=call.generation,
        number=call.number,
        ended=_ended(call),
        started_at=call.started_at,
        lateness_ms=_ms(call.started_at - call.due_at),
        duration_ms=call.duration_ms,
        status_code=call.status_code,
        error=call.error,
        plain=PLAIN.get(call.error, call.error) if call.error else "",
        detail=call.error_detail or "",
        phases=phases(call),
        replica=kept.replica,
        next_attempt_at=call.next_attempt_at,
        wait_ms=None if call.next_attempt_at is None else max(0, _ms(call.next_attempt_at - ended_at)),
        answer=_answered(call) if kept.is_read else None,
        is_read=kept.is_read,
        is_named=(call.generation, call.number) == named,
    )


def _ended(call: StoredAttempt) -> Ended:
    if call.error is None:
        return "succeeded"
    return "failed" if call.next_attempt_at is None else "retry"


def _answered(call: StoredAttempt) -> Answered | None:
    if call.status_code is None:
        return None
    headers = _headers(call.response_headers)
    body = payload(call.response_body, headers, is_cut=len(call.response_body) >= BODY_KEPT)
    return Answered(header_lines(headers), body)


def phases(call: StoredAttempt) -> list[Phase]:
    """One after the other, and the rest as the last; empty where the dispatcher told none."""
    if call.timing is None:
        return []
    told = _timing(call.timing)
    known = [
        Phase("queue", "waiting in the queue", max(0, told.queue_ms or 0)),
        Phase("dns", "resolving the name", told.dns_ms or 0),
        Phase("connect", "connecting", told.connect_ms or 0),
        Phase("tls", "TLS handshake", told.tls_ms or 0),
        Phase("first-byte", "until the first byte of the answer", told.first_byte_ms or 0),
    ]
    rest = call.duration_ms - sum(phase.ms for phase in known[1:])
    text = "sending, and reading the answer" if told.first_byte_ms is not None else "until it was given up"
    return _placed([phase for phase in [*known, Phase("rest", text, rest)] if phase.ms > 0])


def _placed(given: Sequence[Phase]) -> list[Phase]:
    whole = sum(phase.ms for phase in given)
    room = BAR - BAR_PART_MIN * len(given)
    placed, x = [], 0
    for phase in given:
        width = BAR_PART_MIN + phase.ms * room // whole
        placed.append(phase._replace(x=x, width=width))
        x += width
    return placed


def _ms(length: timedelta) -> int:
    return round(length / timedelta(milliseconds=1))
