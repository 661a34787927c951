"""The measurements that every contestant goes through, one after the other, on servers of its own.

1. Warm-up: 500 tasks, one by one and in bulk. Not counted; the leads of what follows derive from its pace.
2. Burst: all tasks, submitted one by one, due at one instant.
3. Spread: as many, submitted in bulk where there is such a way, due one per millisecond.
4. Kill: a smaller burst; SIGKILL to its worker when a tenth is called, and a second later it is started again.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.called import SinkProcess
from benchmarks.cpu import Usage, pids_of, usage
from benchmarks.peers.contestant import Batch, Contestant, Failed, Submitted
from benchmarks.peers.figures import Calls, Kill, Load, Result, calls, curve
from benchmarks.peers.memory import Peak, sampled
from benchmarks.phases import Stuck
from deploy.local.private import PrivateStack

WARM_UP_TASKS = 500
WARM_UP_LEAD_S, WARM_UP_LIMIT_S = 3.0, 90.0
"""Due only when all are submitted, so that the pace is that of submitting alone."""
LEAD_FACTOR = 1.3
"""A batch gets so many times the time that its submission would take at the warm-up's pace..."""
LEAD_MARGIN_S = 4.0
"""... and this."""
MARGIN_S = 0.5
"""All must be accepted so long before the first due time; else it is no burst, and repeated with twice the lead."""
TRIES = 3
QUIET_BEFORE_S, QUIET_AFTER_S = 0.4, 1.0
"""The measurement of the calls begins before the due time, and ends after the last call: acks and completions."""
LOOK_AGAIN_S, LOOK_CLOSELY_S = 0.1, 0.005
KILL_SHARE = 0.1
STARTS_AGAIN_S = 1.0
PATIENCE_S = 15.0
"""Nothing more is called for so long, and the time that it says it takes has passed: what is missing is lost."""

SPREAD_STEP_MS = 1.0


@dataclass
class Course:
    contestant: Contestant
    stack: PrivateStack
    sink: SinkProcess
    limit_s: float
    say: Callable[[str], None]
    peak: Peak = field(default_factory=Peak)
    _called: int = 0
    _numbers: int = 0
    _per_s: dict[bool, float] = field(default_factory=dict)

    async def run(self, result: Result, tasks: int, kill_tasks: int) -> None:
        """Fills `result`. What fails ends the course: its leftovers would be in the way of the next measure."""
        measure = "start"
        result.memory_mib = self.peak.mib
        try:
            await self.contestant.set_up()
            await self.contestant.start()
            measure = "warm-up"
            await self.warm_up()
            async with sampled(self.peak, self._groups):
                measure = "burst"
                result.burst = await self.load(tasks, step_ms=0.0, bulk=False)
                measure = "spread"
                result.spread = await self.load(tasks, step_ms=SPREAD_STEP_MS, bulk=self.contestant.bulk)
            measure = "kill"
            result.kill = await self.kill(kill_tasks)
        except (Failed, Stuck, OSError, EOFError) as failure:
            self.say(f"  {measure}: {failure!r}")
            result.failures[measure] = str(failure)
        finally:
            await self.contestant.stop()

    async def warm_up(self) -> None:
        for bulk in (False, True) if self.contestant.bulk else (False,):
            batch = self._batch(WARM_UP_TASKS, time.time() + WARM_UP_LEAD_S, bulk=bulk)
            submitted = await self.contestant.submit(batch)
            self._per_s[bulk] = submitted.per_s
            await self._all_called(submitted, WARM_UP_LIMIT_S)
            await self.contestant.settled(WARM_UP_TASKS)

    async def load(self, tasks: int, step_ms: float, *, bulk: bool) -> Load:
        """Raises: Failed."""
        lead_s = self.contestant.lead_s + LEAD_MARGIN_S + LEAD_FACTOR * tasks / self._per_s[bulk]
        for _ in range(TRIES):
            first_s = time.time() + lead_s
            batch = self._batch(tasks, first_s, step_ms=step_ms, bulk=bulk)
            before = self._moment()
            submitted = await self.contestant.submit(batch)
            submit_cpu_us = _per_task(before, self._moment(), tasks)
            if time.time() < first_s - MARGIN_S:
                return await self._drain(batch, submitted, submit_cpu_us)
            self.say(f"  submitting took longer than {lead_s:.0f} s: again with twice the lead")
            await self._all_called(submitted, self.limit_s)
            await self.contestant.settled(tasks)
            lead_s *= 2
        raise Failed(f"submitting {tasks} tasks takes longer than {lead_s / 2:.0f} s")

    async def _drain(self, batch: Batch, submitted: Submitted, submit_cpu_us: Mapping[str, float]) -> Load:
        await asyncio.sleep(batch.first_ms / 1000 - QUIET_BEFORE_S - time.time())
        before = self._moment()
        await self._all_called(submitted, self.limit_s + batch.tasks * batch.step_ms / 1000)
        await self.contestant.settled(batch.tasks)
        await asyncio.sleep(QUIET_AFTER_S)
        after = self._moment()
        made = await self.sink.calls()
        load = Load(
            bulk=batch.bulk,
            submitted_per_s=submitted.per_s,
            calls=calls(submitted.due_ms, made),
            submit_cpu_us=submit_cpu_us,
            drain_cpu_us=_per_task(before, after, batch.tasks),
            not_ours=_not_ours(before, after),
            curve=curve(submitted.due_ms, made),
        )
        self._tell(load)
        return load

    async def kill(self, tasks: int) -> Kill:
        submitted = await self._small_burst(tasks)
        wanted = self._called + int(tasks * KILL_SHARE)
        await self._until(wanted, self.limit_s, LOOK_CLOSELY_S)
        await self.contestant.kill()
        killed_ms, called_before = time.time() * 1000, await self.sink.count() - self._called
        await asyncio.sleep(STARTS_AGAIN_S)
        await self.contestant.start()
        waited_for_operator = await self._after_kill()
        seen = calls(submitted.due_ms, await self.sink.calls())
        last_ms = min(submitted.due_ms.values()) + seen.max_ms
        self._called += tasks
        kill = Kill(
            tasks=tasks,
            called_before=called_before,
            lost=seen.missing,
            doubled=seen.doubled,
            early=seen.early,
            last_after_s=(last_ms - killed_ms) / 1000,
            waited_for_operator=waited_for_operator,
        )
        self.say(f"  kill: {kill}")
        return kill

    async def _small_burst(self, tasks: int) -> Submitted:
        """Accepted, and about to be due."""
        bulk = self.contestant.bulk
        first_s = time.time() + self.contestant.lead_s + LEAD_MARGIN_S + LEAD_FACTOR * tasks / self._per_s[bulk]
        return await self.contestant.submit(self._batch(tasks, first_s, bulk=bulk))

    async def _after_kill(self) -> int | None:
        """How many were called only because an operator acted; None where none has to."""
        await self._while_moving(self.contestant.recovery_s)
        if not self.contestant.recovers:
            return None
        before = await self.sink.count()
        await self.contestant.stop()  # so that no living worker's jobs are unlocked
        await self.contestant.recover()
        await self.contestant.start()
        await self._while_moving(self.contestant.recovery_s)
        return await self.sink.count() - before

    async def _while_moving(self, at_least_s: float) -> None:
        """Also when all are called: what is called a second time comes late too."""
        seen, began = -1, time.monotonic()
        moved_at = began
        while time.monotonic() - began < at_least_s or time.monotonic() - moved_at < PATIENCE_S:
            count = await self.sink.count()
            if count != seen:
                seen, moved_at = count, time.monotonic()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _all_called(self, submitted: Submitted, limit_s: float) -> None:
        await self._until(self._called + len(submitted.due_ms), limit_s, LOOK_AGAIN_S)
        self._called += len(submitted.due_ms)

    async def _until(self, wanted: int, limit_s: float, look_again_s: float) -> None:
        """Raises: Failed when so many distinct tasks are not called within the limit."""
        deadline = time.monotonic() + limit_s
        while (count := await self.sink.count()) < wanted:
            if time.monotonic() > deadline:
                raise Failed(f"not called within {limit_s:.0f} s: {wanted - count} tasks")
            await asyncio.sleep(look_again_s)

    def _batch(self, tasks: int, first_s: float, *, step_ms: float = 0.0, bulk: bool) -> Batch:
        self._numbers += 1
        return Batch(f"b{self._numbers}", tasks, round(first_s * 1000), step_ms, bulk)

    def _pids(self) -> dict[str, int]:
        """Of what is its own, the servers it uses, the sink and the client."""
        servers = {name: pid for name, pid in pids_of(self.stack.layout).items() if name in self.contestant.servers}
        return self.contestant.pids() | servers | {"sink": self.sink.pid, "client": os.getpid()}

    def _groups(self) -> dict[str, list[int]]:
        pids = self._pids()
        servers = [pid for name, pid in pids.items() if name in self.contestant.servers]
        return {"own": list(self.contestant.pids().values()), "servers": servers}

    def _moment(self) -> "_Moment":
        pids = self._pids()
        return _Moment(time.monotonic(), pids, usage(pids))

    def _tell(self, load: Load) -> None:
        seen: Calls = load.calls
        self.say(
            f"  {'bulk' if load.bulk else 'one by one'} {load.submitted_per_s:.0f}/s; last {seen.max_ms / 1000:.2f} s"
            f" after the first due time; p50 {seen.p50_ms:.0f} ms, p99 {seen.p99_ms:.0f} ms,"
            f" early {seen.early} (first {seen.first_ms:.0f} ms), doubled {seen.doubled},"
            f" not ours {load.not_ours:.2f} cores"
        )


@dataclass(frozen=True)
class _Moment:
    at: float
    pids: Mapping[str, int]
    usage: Usage


def _used(before: _Moment, after: _Moment) -> dict[str, float]:
    """Seconds of the processes that were there all the time."""
    stayed = [name for name, pid in after.pids.items() if before.pids.get(name) == pid]
    return {name: after.usage.processes[name] - before.usage.processes[name] for name in stayed}


def _per_task(before: _Moment, after: _Moment, tasks: int) -> dict[str, float]:
    return {name: seconds / tasks * 1e6 for name, seconds in _used(before, after).items()}


def _not_ours(before: _Moment, after: _Moment) -> float:
    machine = after.usage.machine - before.usage.machine
    return (machine - sum(_used(before, after).values())) / (after.at - before.at)
