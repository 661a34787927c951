"""A circuit breaker per host: when nearly no call to it is answered, they are put off, but for one that tries again.

    closed --(20 calls in the last moments, four of five failed)--> open --(its time is over)--> half-open: one call
      ^                                                               ^                              |        |
      +--------------------------- it succeeds -----------------------|------------------------------+        |
                                                                      +---- it fails: twice as long ----------+

Pure: time comes in, waits come out.
"""

from dataclasses import dataclass
from typing import Literal

Change = Literal["open", "closed"]

WINDOW_S = 10.0
CALLS_MIN = 20
FAILURES_MIN = 0.8
OPEN_FIRST_S, OPEN_MAX_S = 5.0, 60.0
# To be put off is a way through the scheduler and back, on the CPU that all share: so many of one host a second come
# back to be put off again, or to be called when it has recovered. More than that in five minutes share a second.
BACK_PER_S = 100.0
BACK_MAX_S = 300.0
FORGET_AFTER_S = 600.0


@dataclass(slots=True)
class Breaker:
    """Of one host. `now` is monotonic, seconds."""

    state: Literal["closed", "open", "half-open"] = "closed"
    _open_s: float = OPEN_FIRST_S
    _until: float = 0.0
    _window_from: float = 0.0
    _calls: float = 0.0
    _failures: float = 0.0
    _back_at: float = 0.0

    @property
    def calls(self) -> int:
        """Of the last moments; the older half of them counts half."""
        return round(self._calls)

    @property
    def failures(self) -> int:
        """How many of `calls` failed."""
        return round(self._failures)

    def wait_s(self, now: float) -> float:
        """0: call. Else how long to put the call off. A 0 of a breaker that was open is the one call that finds out."""
        if self.state == "closed":
            return 0.0
        if now < self._until:
            return self._until - now
        self.state = "half-open"
        self._until = now + self._open_s  # nobody else meanwhile; and again if this call never comes to its end
        return 0.0

    def is_idle(self, now: float) -> bool:
        """Nothing is lost with it: it is closed, or nobody has asked for long whether the host is back."""
        return self.state == "closed" or now - self._until > FORGET_AFTER_S

    def back_s(self, now: float) -> float:
        """After how long one comes again that is put off now: when it may be closed by then, and in a row."""
        if self._back_at - now >= BACK_MAX_S:
            self._back_at = self._until  # a second row beside the first
        self._back_at = max(self._back_at, self._until) + 1 / BACK_PER_S
        return self._back_at - now

    def note(self, now: float, *, has_failed: bool) -> Change | None:
        """A call has ended; says so when that opens or closes it."""
        if self.state == "closed":
            return self._count(now, has_failed)
        if not has_failed:
            return self._close()
        if self.state == "half-open":
            self._open_s = min(2 * self._open_s, OPEN_MAX_S)
            return self._open(now)
        return None  # one that began before

    def _count(self, now: float, has_failed: bool) -> Change | None:
        if now - self._window_from > WINDOW_S:
            is_recent = now - self._window_from < 2 * WINDOW_S
            self._calls = self._calls / 2 if is_recent else 0.0
            self._failures = self._failures / 2 if is_recent else 0.0
            self._window_from = now
        self._calls += 1
        self._failures += has_failed
        if self._calls < CALLS_MIN or self._failures < FAILURES_MIN * self._calls:
            return None
        return self._open(now)

    def _open(self, now: float) -> Change:
        self.state, self._until = "open", now + self._open_s
        return "open"

    def _close(self) -> Change:
        self.state, self._open_s, self._calls, self._failures = "closed", OPEN_FIRST_S, 0.0, 0.0
        return "closed"
