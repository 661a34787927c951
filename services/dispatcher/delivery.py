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
from services.dispatcher.gate import Gate, Later
from services.dispatcher.marks import Cancelled, Claimed, InFlight, Marks, Settled, Told
from services.dispatcher.outlet import Outlet
from services.dispatcher.retry import Cancel, Done, Fail, Ladder, Retry, Verdict, cancelled_meanwhile

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
            return await self._put_off(task, call, due, later)
        try:
            try:
                verdict = await self._verdict(task, call, due, host)
            finally:
                self._gate.hang_up(host)
            await self._conclude(task, call, verdict)
        finally:
            self._gate.leave()

    async def _put_off(self, task: Task, call: Call, due: TaskDue, later: Later) -> None:
        """Not what needs no call any more: it would go round until its marks have ended, and be called again."""
        found = await self._marks.look(task)
        if found is None or isinstance(found, InFlight):
            return await self._outlet.put_off(task, due.due_at, later.wait_s, later.reason)
        await self._conclude(task, call, self._known(found))

    async def _conclude(self, task: Task, call: Call, verdict: Verdict | None) -> None:
        if verdict is not None:
            await self._outlet.publish(task, call, verdict)
            await self._marks.settle(task, verdict, self._ladder.longest_wait_s(call))

    async def _verdict(self, task: Task, call: Call, due: TaskDue, host: str) -> Verdict | None:
        """None when somebody else sees to the attempt, or has."""
        match await self._marks.claim(task):
            case Claimed():
                return await self._claimed(task, call, due, host)
            case InFlight():
                REPEATED.labels("claim").inc()
                await self._outlet.wait_for_claim(task, due.due_at, self._ladder.shortest_ms)
                return None
            case found:
                return self._known(found)

    def _known(self, found: Told | Settled | Cancelled) -> Verdict | None:
        match found:
            case Told(verdict):
                REPEATED.labels("verdict").inc()
                return verdict
            case Cancelled():
                return Cancel(self._clock.now())
            case Settled():
                REPEATED.labels("done").inc()
                return None

    async def _claimed(self, task: Task, call: Call, due: TaskDue, host: str) -> Verdict | None:
        """A bug gives the claim back: an item that waits for it on a rung loses its count of crashes there."""
        try:
            verdict, answer = await self._attempts.make(task, call, due)
            change = None if answer is None else self._gate.note(host, answer)
            if isinstance(verdict, Retry | Fail) and await self._marks.is_cancelled(task):
                verdict = cancelled_meanwhile(verdict, self._clock.now())
            stands = await self._marks.tell(task, verdict)
        except asyncio.CancelledError:
            self._marks.abandon(task)
            raise
        except Exception:
            await self._marks.release(task)
            raise
        if change is not None:
            await self._outlet.breaker_changed(change)
        # Another's, who went on while this process was frozen: a second verdict would fork the task, or end it falsely.
        return verdict if stands is None or isinstance(verdict, Done) else self._known(stands)


def _read(due: TaskDue) -> tuple[Task, Call]:
    try:
        task = decode_task(due.task)
        return task, decode_call(task.call)
    except UNREADABLE as error:
        raise Poison(f"undecodable task or call: {error}") from error
