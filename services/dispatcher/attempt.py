"""One attempt: expired or called, judged, counted, logged. The verdict is a value; nothing is told to anybody here."""

from functools import lru_cache

import structlog
from prometheus_client import Counter, Gauge, Histogram

from libs.common.clock import Clock
from libs.common.contracts import AttemptFinished, Call, Task, TaskDue
from libs.common.ids import text_of
from libs.common.metrics import REGISTRY
from libs.common.tracing import Tracer
from services.dispatcher.caller import Caller, Request, request_of
from services.dispatcher.outcome import Answer
from services.dispatcher.retry import Expire, Ladder, Verdict
from services.dispatcher.signature import Signer
from services.dispatcher.traced import traced_call

ATTEMPTS = Counter(
    "carillon_dispatcher_attempts_total",
    "Calls made, by outcome and error class",
    ["outcome", "error"],
    registry=REGISTRY,
)
DURATION = Histogram(
    "carillon_dispatcher_call_seconds",
    "From the start of a call to its answer",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=REGISTRY,
)
LATENESS = Histogram(
    "carillon_dispatcher_lateness_seconds",
    "From the moment an attempt was due to its start",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600),
    registry=REGISTRY,
)
IN_FLIGHT = Gauge("carillon_dispatcher_calls_in_flight", "Calls under way", registry=REGISTRY)

log = structlog.get_logger(__name__)


_attempts = lru_cache(ATTEMPTS.labels)


class Attempts:
    """Makes them."""

    def __init__(
        self, caller: Caller, signer: Signer, ladder: Ladder, clock: Clock, replica: str, tracer: Tracer | None = None
    ) -> None:
        self._caller = caller
        self._signer = signer
        self._ladder = ladder
        self._clock = clock
        self._replica = replica
        self._tracer = tracer
        self._log = log.bind()  # once: that costs as much as the line

    async def make(self, task: Task, call: Call, due: TaskDue) -> tuple[Verdict, Answer | None]:
        """What became of it, and what the call met; None when there was none."""
        now = self._clock.now()
        if task.expires_at is not None and task.expires_at <= now:
            return Expire(now), None
        request = request_of(task, call, self._ladder.attempts_max(call), now, self._signer)
        IN_FLIGHT.inc()
        try:
            answer = await self._answer(request, task, due)
        finally:
            IN_FLIGHT.dec()
        verdict = self._ladder.decide(task, call, answer, due.due_at, self._clock.now(), self._replica)
        self._record(task, answer, verdict.event, due)
        return verdict, answer

    async def _answer(self, request: Request, task: Task, due: TaskDue) -> Answer:
        if self._tracer is None:
            return await self._caller.call(request)
        return await traced_call(self._tracer, self._caller, request, task, due.due_at)

    def _record(self, task: Task, answer: Answer, event: AttemptFinished, due: TaskDue) -> None:
        lateness_s = (answer.started_at - due.due_at).total_seconds()
        _attempts(event.outcome, event.error or "").inc()
        DURATION.observe(answer.duration_ms / 1000)
        LATENESS.observe(max(lateness_s, 0.0))
        self._log.info(
            "attempt.finished",
            task_id=text_of(task.id),
            attempt=task.attempt,
            outcome=event.outcome,
            error=event.error,
            status_code=answer.status_code,
            duration_ms=answer.duration_ms,
            lateness_ms=round(lateness_s * 1000),
        )
