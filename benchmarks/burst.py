"""`python -m benchmarks.burst`: a burst of tasks, all due at one instant, through the whole pipeline.

    python -m benchmarks.burst [--tasks 10000] [--lead 30] [--connections 64]

A stack of its own, one process per service, everything at its default unless a CARILLON_* variable says otherwise
(the report lists those). Two phases, measured apart: submitting, until the history knows every task; and draining, from
the due instant until every task is called and the history knows it. What it prints it measured, on this machine, now.
"""

import argparse
import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.called import SinkProcess, sink_process
from benchmarks.machine import description, load_average
from benchmarks.phases import Meter, Moment, Stuck, between, reach
from benchmarks.report import Burst, called, text
from benchmarks.submit import Job, NotTaken, Submitted, submit
from deploy.local.environment import CLIENT_NAMES, SERVER_URLS
from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from libs.common.clock import ceil_to_ms, to_ms

FOLDER = Path(".local") / "bench"
WARM_UP_TASKS = 500
"""Before the first measurement: connections, prefetch, pools, caches and code paths as they are in a running system."""
MARGIN_S = 2.0
"""All must be accepted and projected so long before the due instant; else the burst is repeated with a longer lead."""
TRIES = 3
QUIET_BEFORE_S = 0.5
"""The measurement of the drain begins so long before the due instant."""


def main() -> int:
    options = _parser().parse_args()
    load_before = load_average()  # before the stack's own start adds to it
    try:
        with private_stack(FOLDER, port_offset=options.port_offset, replicas=1, settings={}) as stack:
            burst = asyncio.run(measure(stack, options, load_before))
            summary = FOLDER / "summary.json"
            summary.write_bytes(msgspec.json.format(msgspec.json.encode(burst.as_json()), indent=1))
            say(f"{text(burst)}\n\n  summary      {summary}")
    except (StackError, Stuck, NotTaken) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted; the stack is down")
        return 130
    return 1 if burst.called.missing or burst.called.early else 0


def say(line: str) -> None:
    print(line, flush=True)


async def measure(stack: PrivateStack, options: argparse.Namespace, load_before: float) -> Burst:
    """Raises: Stuck, NotTaken."""
    async with aiohttp.ClientSession() as session, sink_process(session) as sink:
        bench = Bench(stack, sink, Meter(stack, sink, session), options.connections)
        warm = await bench.warm_up(min(WARM_UP_TASKS, options.tasks))
        lead_s = max(options.lead, 1.5 * options.tasks / warm.per_s + 2 * MARGIN_S)
        for _ in range(TRIES):
            burst = await bench.one_burst(options.tasks, lead_s, load_before)
            if burst is not None:
                return burst
            lead_s *= 2
    raise Stuck(f"submitting {options.tasks} tasks takes longer than {lead_s / 2:.0f} s")


class Bench:
    """What one measurement needs."""

    def __init__(self, stack: PrivateStack, sink: SinkProcess, meter: Meter, connections: int) -> None:
        self._stack = stack
        self._sink = sink
        self._meter = meter
        self._connections = connections
        self._tasks_before = 0

    async def warm_up(self, tasks: int) -> Submitted:
        say(f"warming up with {tasks} tasks")
        submitted = await submit(self._job(datetime.now(UTC)), tasks)
        await self._drained(tasks)
        return submitted

    async def one_burst(self, tasks: int, lead_s: float, load_before: float) -> Burst | None:
        """None when submitting took so long that it is no burst."""
        due_at = ceil_to_ms(datetime.now(UTC) + timedelta(seconds=lead_s))
        say(f"submitting {tasks} tasks, all due in {lead_s:.0f} s")
        start = await self._meter.now()
        submitted = await submit(self._job(due_at), tasks)
        await self._projected("TaskAccepted", self._tasks_before + tasks)
        accepted = await self._meter.now()
        if _seconds_until(due_at) < MARGIN_S:
            say(f"that took {submitted.seconds:.0f} s: too long for a burst; again with a longer lead")
            await self._drained(tasks)
            return None
        say(f"accepted at {submitted.per_s:.0f} tasks/s; waiting for the due instant")
        await asyncio.sleep(_seconds_until(due_at) - QUIET_BEFORE_S)
        due = await self._meter.now()
        await self._drained(tasks)
        moments = (start, accepted, due, await self._meter.now())
        return await self._burst(submitted, due_at, moments, lead_s, load_before)

    async def _burst(
        self,
        submitted: Submitted,
        due_at: datetime,
        moments: tuple[Moment, Moment, Moment, Moment],
        lead_s: float,
        load_before: float,
    ) -> Burst:
        start, accepted, due, end = moments
        return Burst(
            machine=await description(self._stack.variables),
            settings=_settings(),
            load_before=load_before,
            lead_s=lead_s,
            submit_s=submitted.seconds,
            called=called(submitted.ids, await self._sink.calls(), to_ms(due_at)),
            submit=between(start, accepted),
            drain=between(due, end),
        )

    async def _drained(self, tasks: int) -> None:
        """Every task so far is called, and the history knows it."""
        self._tasks_before += tasks
        await reach("tasks called", self._tasks_before, self._sink.count)
        await self._projected("AttemptFinished", self._tasks_before)

    async def _projected(self, kind: str, wanted: int) -> None:
        await reach(f"{kind} in the history", wanted, lambda: self._meter.history(kind))

    def _job(self, due_at: datetime) -> Job:
        return Job(
            api_url=self._stack.api_urls()[0],
            api_key=self._stack.api_key,
            call_url=f"{self._sink.url}/called",
            due_at=due_at,
            connections=self._connections,
        )


def _seconds_until(moment: datetime) -> float:
    return (moment - datetime.now(UTC)).total_seconds()


def _settings() -> dict[str, str]:
    """What the caller changed."""
    unused = {*SERVER_URLS.values(), *CLIENT_NAMES}
    given = {name: value for name, value in os.environ.items() if name.startswith("CARILLON_") and name not in unused}
    return {name: "..." if name.endswith(("KEY", "_TO", "_FROM")) else given[name] for name in sorted(given)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.burst", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="how many are due at the instant (%(default)s)")
    parser.add_argument("--lead", type=float, default=30.0, help="least seconds from now to it (%(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="requests at once when submitting (%(default)s)")
    parser.add_argument("--port-offset", type=int, default=2500, help="added to every port (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
