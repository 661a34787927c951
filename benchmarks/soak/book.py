"""What was promised and what was called: missing, early and second calls, and lateness by the minute. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from deploy.demo.table import percentile

MINUTE_MS = 60_000
RETRY_AFTER_MS = 5_000
"""The first rung of the default ladder: a second call earlier than so much after the first is early."""


@dataclass(slots=True)
class Promise:
    due_ms: int
    calls: int
    is_ahead: bool = True
    """Asked for before it was due. The others are as late as the way through the doors takes."""
    is_certain: bool = True
    """False when nobody told whether a change of it has happened: it is left out of everything."""


@dataclass(frozen=True)
class Window:
    """Lateness in ms of the first calls of what was due within one minute of the run."""

    minute: int
    tasks: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Tally:
    accepted: int
    called: int
    """Tasks that were called at least once."""
    calls: int
    retried: int
    """Tasks that were called again as they should."""
    missing: int
    """Calls that did not come."""
    duplicates: int
    """Calls beyond what was promised."""
    early: int
    after_cancel: int
    """Calls of tasks whose cancellation was confirmed."""
    unknown: int
    """Calls of tasks that nobody knows: their request was not answered."""
    uncertain: int
    """Tasks left out, because a change of them was not answered."""
    windows: list[Window]
    at_once: Window | None
    """Of all tasks that were due at once: from the request to the call."""

    @property
    def faults(self) -> int:
        return self.missing + self.early + self.after_cancel


@dataclass
class Book:
    promises: dict[str, Promise] = field(default_factory=dict)

    def promise(self, id_: str, due_ms: int, calls: int, *, is_ahead: bool = True) -> None:
        """Also again, when it is changed."""
        self.promises[id_] = Promise(due_ms, calls, is_ahead)

    def doubt(self, id_: str) -> None:
        self.promises[id_].is_certain = False

    def cancel(self, id_: str) -> None:
        self.promise(id_, self.promises[id_].due_ms, 0)

    @property
    def calls_to_come(self) -> int:
        return sum(promise.calls for promise in self.promises.values() if promise.is_certain)


def tally(promises: Mapping[str, Promise], calls: Iterable[tuple[str, int]], began_ms: int) -> Tally:
    """`calls`: id and ms since 1970, in the order they came."""
    seen: dict[str, list[int]] = {}
    unknown = 0
    for id_, at_ms in calls:
        if id_ in promises:
            seen.setdefault(id_, []).append(at_ms)
        else:
            unknown += 1
    certain = {id_: promise for id_, promise in promises.items() if promise.is_certain}
    pairs = [(promise, seen.get(id_, [])) for id_, promise in certain.items()]
    kept = [(promise, at) for promise, at in pairs if promise.calls]
    return Tally(
        accepted=len(promises),
        called=len(seen),
        calls=sum(map(len, seen.values())) + unknown,
        retried=sum(promise.calls > 1 and len(at) > 1 for promise, at in kept),
        missing=sum(max(0, promise.calls - len(at)) for promise, at in kept),
        duplicates=sum(max(0, len(at) - promise.calls) for promise, at in kept),
        early=sum(_early(promise, at) for promise, at in kept),
        after_cancel=sum(len(at) for promise, at in pairs if not promise.calls),
        unknown=unknown,
        uncertain=len(promises) - len(certain),
        windows=_windows(((promise, at) for promise, at in kept if promise.is_ahead), began_ms),
        at_once=_at_once(kept),
    )


def _early(promise: Promise, at: list[int]) -> int:
    """Calls before their time: of any before the due time, of the first retry before its rung is over."""
    is_retry_early = promise.calls > 1 and len(at) > 1 and at[1] - at[0] < RETRY_AFTER_MS
    return sum(at_ms < promise.due_ms for at_ms in at) + is_retry_early


def _windows(kept: Iterable[tuple[Promise, list[int]]], began_ms: int) -> list[Window]:
    late: dict[int, list[int]] = {}
    for promise, at in kept:
        if at:
            late.setdefault((promise.due_ms - began_ms) // MINUTE_MS, []).append(at[0] - promise.due_ms)
    return [_window(minute, values) for minute, values in sorted(late.items())]


def _at_once(kept: Iterable[tuple[Promise, list[int]]]) -> Window | None:
    late = [at[0] - promise.due_ms for promise, at in kept if at and not promise.is_ahead]
    return _window(0, late) if late else None


def _window(minute: int, late: list[int]) -> Window:
    return Window(minute, len(late), percentile(late, 0.5), percentile(late, 0.99), max(late))
