"""The heart: one due task, one attempt, one verdict.

    claim -> call -> write the verdict into the mark -> publish what follows -> mark it done -> (the consumer acks)

For each arrow: a crash there means a redelivery, which finds the claim (waits a rung), the verdict (publishes it,
does not call) or the done mark (drops). Only a crash during the call repeats a call.
"""

import structlog
from prometheus_client import Counter, Gauge, Histogram

from libs.common.clock import Clock
from libs.common.contracts import Call, Task, TaskDue, decode_call, decode_task
from libs.common.intake import UNREADABLE, Poison
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from services.dispatcher.caller import Caller, request_of
from services.dispatcher.marks import Claimed, InFlight, Marks, Settled, Told
from services.dispatcher.outcome import Answer
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Expire, Ladder, Verdict

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
REPEATED = Counter(
    "carillon_dispatcher_deliveries_repeated_total", "Redeliveries absorbed by a mark", ["mark"], registry=REGISTRY
)

log = structlog.get_logger(__name__)


class Delivery:
    def __init__(
        self,
        caller: Caller,
        marks: Marks,
        ladder: Ladder,
        outlet: Outlet,
        publisher: Publisher,
        clock: Clock,
        replica: str,
    ) -> None:
        self._caller = caller
        self._marks = marks
        self._ladder = ladder
        self._outlet = outlet
        self._publisher = publisher
        self._clock = clock
        self._replica = replica

    async def handle(self, due: TaskDue) -> None:
        """Returns when the message may be acked."""
        task, call = _read(due)
        await self._publisher.flowing()  # no new call while its outcome could not be told
        match await self._marks.claim(task, call.timeout_s):
            case Settled():
                REPEATED.labels("done").inc()
                return
            case InFlight():
                REPEATED.labels("claim").inc()
                await self._outlet.wait_for_claim(task, due.due_at, self._ladder.shortest_ms)
                return
            case Told(verdict):
                REPEATED.labels("verdict").inc()
            case Claimed():
                verdict = await self._claimed(task, call, due)
        await self._outlet.publish(task, call, verdict)
        await self._marks.settle(task, verdict, self._ladder.longest_wait_s(call))

    async def _claimed(self, task: Task, call: Call, due: TaskDue) -> Verdict:
        """A bug gives the claim back: an item that waits for it on a rung loses its count of crashes there."""
        try:
            verdict = await self._attempt(task, call, due)
            await self._marks.tell(task, verdict)
        except Exception:
            await self._marks.release(task)
            raise
        return verdict

    async def _attempt(self, task: Task, call: Call, due: TaskDue) -> Verdict:
        now = self._clock.now()
        if task.expires_at is not None and task.expires_at <= now:
            return Expire(now)
        with IN_FLIGHT.track_inprogress():
            answer = await self._caller.call(request_of(task, call, self._ladder.attempts_max(call), now))
        verdict = self._ladder.decide(task, call, answer, due.due_at, self._clock.now(), self._replica)
        self._record(task, answer, verdict, due)
        return verdict

    def _record(self, task: Task, answer: Answer, verdict: Verdict, due: TaskDue) -> None:
        lateness_s = (answer.started_at - due.due_at).total_seconds()
        assert not isinstance(verdict, Expire)
        event = verdict.event
        ATTEMPTS.labels(event.outcome, event.error or "").inc()
        DURATION.observe(answer.duration_ms / 1000)
        LATENESS.observe(max(lateness_s, 0.0))
        log.info(
            "attempt.finished",
            task_id=str(task.id),
            attempt=task.attempt,
            outcome=event.outcome,
            error=event.error,
            status_code=answer.status_code,
            duration_ms=answer.duration_ms,
            lateness_ms=round(lateness_s * 1000),
        )


def _read(due: TaskDue) -> tuple[Task, Call]:
    try:
        task = decode_task(due.task)
        return task, decode_call(task.call)
    except UNREADABLE as error:
        raise Poison(f"undecodable task or call: {error}") from error
