"""May this attempt be made now? Asked before each call, in this order:

    its target is paused          put off, again and again, until somebody resumes it
    no turn soon (lanes.py)       put off until its turn is likely
    the host's breaker is open    put off until it may close, for ten minutes at most
    the rate limit says later     put off until the moment that is kept for it

Putting off costs a hop, never an attempt: none of it is the task's fault.
"""

from datetime import timedelta
from typing import Literal, NamedTuple

from prometheus_client import Counter, Gauge

from libs.common.clock import Clock
from libs.common.contracts import TargetRule, Task
from libs.common.metrics import REGISTRY
from services.dispatcher.breaker import Breaker
from services.dispatcher.control import Control
from services.dispatcher.lanes import Lanes
from services.dispatcher.limiter import Limiter
from services.dispatcher.outcome import Answer

Reason = Literal["paused", "breaker", "busy", "limit"]

PAUSE_FIRST_S, PAUSE_MAX_S = 1.0, 300.0
# A dead host must not keep its tasks from ever failing: then the call is made whatever the breaker says.
BREAKER_PUTS_OFF = timedelta(minutes=10)
BREAKERS_MAX = 10_000
_NOT_YET = timedelta(0)

PUT_OFF = Counter("carillon_dispatcher_put_off_total", "Attempts put off, by reason", ["reason"], registry=REGISTRY)
OPEN = Gauge("carillon_dispatcher_open_breakers", "Hosts whose circuit breaker is not closed", registry=REGISTRY)
OPENED = Counter("carillon_dispatcher_breaker_opened_total", "Circuit breakers that have opened", registry=REGISTRY)


class Later(NamedTuple):
    """Not now."""

    wait_s: float
    reason: Reason


# What a crash in between leaves behind.
_UNDECIDED = Later(0.0, "limit")


class BreakerChange(NamedTuple):
    """`for_s`: how long an open one stays so at least, and `reason` what opened it."""

    host: str
    state: Literal["open", "closed"]
    for_s: float
    reason: str | None = None


class Gate:
    """`enter`; when that is None: call, `note` the answer, `hang_up`, tell what came of it, `leave`."""

    def __init__(
        self,
        control: Control,
        lanes: Lanes,
        limiter: Limiter,
        clock: Clock,
    ) -> None:
        self._control = control
        self._lanes = lanes
        self._limiter = limiter
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    async def enter(self, task: Task, host: str) -> Later | None:
        """None: make the call now, and in any case `hang_up` after it and `leave` at the very end."""
        later = await self._asked(task, host)
        if later is not None:
            PUT_OFF.labels(later.reason).inc()
        return later

    def note(self, host: str, answer: Answer) -> "BreakerChange | None":
        """What the call met; says so when that opens or closes the host's breaker."""
        self._lanes.note(host, answer.duration_ms / 1000)
        has_failed = _is_failure(answer)
        if not has_failed and host not in self._breakers:
            return None  # most hosts never fail, and need none
        breaker = self._breaker(host)
        now, was_closed = self._clock.monotonic(), breaker.state == "closed"
        state = breaker.note(now, has_failed=has_failed)
        if state is None:
            return None
        OPENED.inc(state == "open")
        self._count_open()
        reason = _reason(breaker, answer, was_closed=was_closed) if state == "open" else None
        return BreakerChange(host, state, breaker.wait_s(now), reason)

    def hang_up(self, host: str) -> None:
        self._lanes.hang_up(host)

    def leave(self) -> None:
        self._lanes.leave()

    async def _asked(self, task: Task, host: str) -> Later | None:
        rule = self._control.target(task.project, host)
        put_off = self._clock.now() - task.put_off_since if task.put_off_since else _NOT_YET
        if rule is not None and rule.is_paused:
            return Later(min(max(put_off.total_seconds(), PAUSE_FIRST_S), PAUSE_MAX_S), "paused")
        busy_s = await self._lanes.enter(host)
        if busy_s is not None:
            return Later(busy_s, "busy")
        later: Later | None = _UNDECIDED
        try:
            later = self._broken(host, put_off) or await self._limited(task, rule)
        finally:
            if later is not None:
                self._lanes.hang_up(host)
                self._lanes.leave()
        return later

    def _broken(self, host: str, put_off: timedelta) -> Later | None:
        breaker = self._breakers.get(host)
        if breaker is None or put_off >= BREAKER_PUTS_OFF:
            return None
        now = self._clock.monotonic()
        return Later(breaker.back_s(now), "breaker") if breaker.wait_s(now) else None

    async def _limited(self, task: Task, rule: TargetRule | None) -> Later | None:
        wait_s = await self._limiter.wait_s(task, rule) if rule else 0.0
        return Later(wait_s, "limit") if wait_s else None

    def _breaker(self, host: str) -> Breaker:
        if host not in self._breakers and len(self._breakers) >= BREAKERS_MAX:
            now = self._clock.monotonic()
            self._breakers = {name: each for name, each in self._breakers.items() if not each.is_idle(now)}
            self._count_open()
        return self._breakers.setdefault(host, Breaker())

    def _count_open(self) -> None:
        OPEN.set(sum(each.state != "closed" for each in self._breakers.values()))


def _reason(breaker: Breaker, answer: Answer, *, was_closed: bool) -> str:
    """For a person; of the answer its class alone, since other projects call the host too."""
    error = answer.error or "no answer"
    if not was_closed:
        return f"the call that tried it again got no answer ({error})"
    return f"{breaker.failures} of the last {breaker.calls} calls got no answer (the last: {error})"


def _is_failure(answer: Answer) -> bool:
    """No answer at all. One that answers 503 costs us little, and its tasks climb their own ladders, exactly."""
    return answer.status_code is None and answer.error != "blocked_address"
