"""The heart: one due task, one attempt, one verdict.

    gate -> claim -> call -> write the verdict into the mark -> publish what follows -> mark it done -> (consumer acks)

For each arrow: a crash there means a redelivery, which finds the claim (waits a rung), the verdict (publishes it,
does not call) or the done mark (drops). Only a crash during the call repeats a call.
"""

import asyncio

from prometheus_client import Counter

from libs.common.clock import Clock
from libs.common.contracts import Call, Task, TaskDue, decode_call, decode_task
from libs.common.host import host_of
from libs.common.intake import UNREADABLE, Poison
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from services.dispatcher.attempt import Attempts
from services.dispatcher.gate import Gate
from services.dispatcher.marks import Cancelled, Claimed, InFlight, Marks, Settled, Told
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Cancel, Fail, Ladder, Retry, Verdict, cancelled_meanwhile

REPEATED = Counter(
    "carillon_dispatcher_deliveries_repeated_total", "Redeliveries absorbed by a mark", ["mark"], registry=REGISTRY
)


class Delivery:
    def __init__(
        self,
        gate: Gate,
        marks: Marks,
        attempts: Attempts,
        ladder: Ladder,
        outlet: Outlet,
        publisher: Publisher,
        clock: Clock,
    ) -> None:
        self._gate = gate
        self._marks = marks
        self._attempts = attempts
        self._ladder = ladder
        self._outlet = outlet
        self._publisher = publisher
        self._clock = clock

    async def handle(self, due: TaskDue) -> None:
        """Returns when the message may be acked."""
        task, call = _read(due)
        await self._publisher.flowing()  # no new call while its outcome could not be told
        host = host_of(call.url)
        later = await self._gate.enter(task, host)
        if later is not None:
            return await self._outlet.put_off(task, due.due_at, later.wait_s, later.reason)
        try:
            try:
                verdict = await self._verdict(task, call, due, host)
            finally:
                self._gate.hang_up(host)
            if verdict is not None:
                await self._outlet.publish(task, call, verdict)
                await self._marks.settle(task, verdict, self._ladder.longest_wait_s(call))
        finally:
            self._gate.leave()

    async def _verdict(self, task: Task, call: Call, due: TaskDue, host: str) -> Verdict | None:
        """None when somebody else sees to the attempt, or has."""
        match await self._marks.claim(task):
            case Settled():
                REPEATED.labels("done").inc()
                return None
            case InFlight():
                REPEATED.labels("claim").inc()
                await self._outlet.wait_for_claim(task, due.due_at, self._ladder.shortest_ms)
                return None
            case Told(verdict):
                REPEATED.labels("verdict").inc()
                return verdict
            case Cancelled():
                return Cancel(self._clock.now())
            case Claimed():
                return await self._claimed(task, call, due, host)

    async def _claimed(self, task: Task, call: Call, due: TaskDue, host: str) -> Verdict:
        """A bug gives the claim back: an item that waits for it on a rung loses its count of crashes there."""
        try:
            verdict, answer = await self._attempts.make(task, call, due)
            change = None if answer is None else self._gate.note(host, answer)
            if isinstance(verdict, Retry | Fail) and await self._marks.is_cancelled(task):
                verdict = cancelled_meanwhile(verdict, self._clock.now())
            await self._marks.tell(task, verdict)
        except asyncio.CancelledError:
            self._marks.abandon(task)
            raise
        except Exception:
            await self._marks.release(task)
            raise
        if change is not None:
            await self._outlet.breaker_changed(change)
        return verdict


def _read(due: TaskDue) -> tuple[Task, Call]:
    try:
        task = decode_task(due.task)
        return task, decode_call(task.call)
    except UNREADABLE as error:
        raise Poison(f"undecodable task or call: {error}") from error
