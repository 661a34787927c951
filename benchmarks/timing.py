"""`make timing`: how late the scheduler is, alone, on servers of its own.

    python -m benchmarks.timing [spread burst freeze replicas pending held] [--pending 10000000] [--seconds 60] ...

    spread    1,000 tasks/s for a minute: lateness up to the sink, p50, p99, max
    burst     20,000 due at one instant: when the last has come
    freeze    two replicas at 500 tasks/s, one stopped for 8 s: what is lost, doubled, and how long nobody takes over
              (--frozen-s 600 --frozen-per-s 100 for one that nobody misses any more when it comes back)
    replicas  500 tasks/s with one, two and four replicas: CPU per task, of the schedulers and of Postgres
    pending   readiness, memory, and lateness at 500 tasks/s beside ten million rows that wait, and without them
    held      memory of a scheduler whose wheel is full: a million tasks due within the hour, and the horizon as long

Tasks are put into the table by SQL and taken from dispatcher.due by a sink in the benchmark's process, so lateness here
includes the broker and that process. What it prints it measured, on this machine, now.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.cpu import pids_of, usage
from benchmarks.machine import description, load_average
from benchmarks.phases import Stuck
from benchmarks.schedulers import Schedulers, Sink, empty, fill, insert, schedulers, sink
from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from deploy.setup import main as set_up
from services.scheduler.alarm import WHEEL_MAX

FOLDER = Path(".local") / "timing"
LEAD_S = 6.0
"""From the insertion to the first due time: the schedulers start in it."""
HELD_LIMIT_S = 120.0
AROUND_FREEZE_S = 17
"""Tasks are due for so much longer than the freeze: 5 s before it, and when both are at work again."""


def main() -> int:
    options = _parser().parse_args()
    load_before = load_average()
    try:
        with private_stack(FOLDER, port_offset=options.port_offset, replicas=0, settings={}) as stack:
            asyncio.run(measure(stack, options, load_before))
    except (StackError, Stuck) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def say(line: str) -> None:
    print(line, flush=True)


async def measure(stack: PrivateStack, options: argparse.Namespace, load_before: float) -> None:
    for name in ("CARILLON_AMQP_URL", "CARILLON_POSTGRES_URL"):
        os.environ[name] = stack.variables[name]
    await set_up()
    machine = await description(stack.variables)
    say("  ".join(f"{name} {value}" for name, value in machine.items()) + f"  load before {load_before:.2f}")
    scenarios: dict[str, Callable[[], Awaitable[None]]] = {
        "spread": lambda: spread(stack, 1000, options.seconds),
        "burst": lambda: burst(stack, options.burst),
        "freeze": lambda: freeze(stack, options.frozen_s, options.frozen_per_s),
        "replicas": lambda: replicas(stack),
        "pending": lambda: pending(stack, options.pending),
        "held": lambda: held(stack, WHEEL_MAX),
    }
    for name in options.scenarios or scenarios:
        await empty(stack)
        await scenarios[name]()


async def spread(stack: PrivateStack, per_s: int, seconds: int, label: str = "spread") -> None:
    due_at = datetime.now(UTC) + timedelta(seconds=LEAD_S + per_s * seconds / 40_000)
    await insert(stack, per_s * seconds, due_at, 1000 / per_s)
    async with sink(stack) as taken:
        with schedulers(stack, 1) as running:
            await running.ready(0)
            await taken.has(per_s * seconds, LEAD_S + seconds + 60)
            say(f"{label:10} {per_s}/s for {seconds} s: {_lateness(taken)}, RSS {_rss(running)}")
            say(f"           confirmed within {await running.confirmed(0)}")


async def burst(stack: PrivateStack, count: int) -> None:
    due_at = datetime.now(UTC) + timedelta(seconds=LEAD_S + count / 20_000)
    await insert(stack, count, due_at, 0)
    async with sink(stack) as taken:
        with schedulers(stack, 1) as running:
            await running.ready(0)
            before = usage(pids_of(stack.layout) | running.pids())
            await taken.has(count, LEAD_S + 60)
            used = usage(pids_of(stack.layout) | running.pids()).since(before)
            took_s = taken.last_at - due_at.timestamp()
            cpu = ", ".join(f"{name} {s * 1e6 / count:.0f}" for name, s in used.processes.items())
            say(f"burst      {count} at one instant: last after {took_s:.2f} s, {_lateness(taken)}; us/task {cpu}")


async def freeze(stack: PrivateStack, frozen_s: float, per_s: int) -> None:
    """Stopped in mid-fire: a process that is about to commit, or has just published."""
    seconds = round(frozen_s) + AROUND_FREEZE_S
    due_at = datetime.now(UTC) + timedelta(seconds=LEAD_S + per_s * seconds / 40_000)
    await insert(stack, per_s * seconds, due_at, 1000 / per_s)
    async with sink(stack) as taken:
        with schedulers(stack, 2) as running:
            await asyncio.gather(running.ready(0), running.ready(1))
            await taken.has(per_s * 5, LEAD_S + 60)
            frozen_at = time.time()
            os.kill(running.processes[0].pid, signal.SIGSTOP)
            await asyncio.sleep(frozen_s)
            os.kill(running.processes[0].pid, signal.SIGCONT)
            await taken.has(per_s * seconds, seconds + 60)
            await asyncio.sleep(6)  # what the frozen one still publishes
            late = max(taken.lateness_ms) / 1000
            say(
                f"freeze     {frozen_s:.0f} s at {time.strftime('%X', time.localtime(frozen_at))}: lost"
                f" {per_s * seconds - len(taken.ids)}, duplicates {taken.duplicates}, early {taken.early},"
                f" latest {late:.2f} s late, causes {taken.because}"
            )


async def replicas(stack: PrivateStack) -> None:
    """In one run, so that the ratios hold on a noisy machine."""
    for count in (1, 2, 4, 1, 2, 4):
        await replica_cost(stack, count)
        await empty(stack)


async def replica_cost(stack: PrivateStack, count: int, per_s: int = 500, seconds: int = 20) -> None:
    due_at = datetime.now(UTC) + timedelta(seconds=LEAD_S + count)
    await insert(stack, per_s * seconds, due_at, 1000 / per_s)
    async with sink(stack) as taken:
        with schedulers(stack, count) as running:
            await asyncio.gather(*(running.ready(number) for number in range(count)))
            pids = {"postgres": pids_of(stack.layout)["postgres"]} | running.pids()
            before = usage(pids)
            await taken.has(per_s * seconds, LEAD_S + seconds + 60)
            used = usage(pids).since(before).processes
            total = sum(used.values()) * 1e6 / (per_s * seconds)
            own = (sum(used.values()) - used["postgres"]) * 1e6 / (per_s * seconds)
            say(
                f"replicas   {count}: {total:.0f} us/task, postgres {total - own:.0f}, schedulers {own:.0f};"
                f" {_lateness(taken)}"
            )


async def pending(stack: PrivateStack, count: int) -> None:
    await spread(stack, 500, 30, "empty")
    await empty(stack)
    begun = time.monotonic()
    row_bytes = await fill(stack, count, timedelta(days=365))
    say(f"pending    {count} rows in {time.monotonic() - begun:.0f} s, {row_bytes:.0f} bytes each with indexes")
    due_at = datetime.now(UTC) + timedelta(seconds=LEAD_S + 2)
    await insert(stack, 15_000, due_at, 2)
    async with sink(stack) as taken:
        with schedulers(stack) as running:
            ready_s = await running.ready(running.start())
            await taken.has(15_000, 90)
            say(f"pending    ready after {ready_s:.2f} s, RSS {_rss(running)}; 500/s: {_lateness(taken)}")
            say(f"           confirmed within {await running.confirmed(0)}")


async def held(stack: PrivateStack, count: int) -> None:
    await fill(stack, count, timedelta(minutes=50), after=timedelta(minutes=8))
    with schedulers(stack) as running:
        begun = time.monotonic()
        await running.ready(running.start(CARILLON_HORIZON_S="3600"))
        say(f"held       nothing yet: RSS {_rss(running)}")
        while await running.held(0) < count:
            if time.monotonic() - begun > HELD_LIMIT_S:
                raise Stuck(f"{await running.held(0)} of {count} are on the wheel after {HELD_LIMIT_S:.0f} s")
            await asyncio.sleep(0.2)
        say(f"held       {count} on the wheel after {time.monotonic() - begun:.1f} s, RSS {_rss(running)}")


def _lateness(taken: Sink) -> str:
    ms = sorted(taken.lateness_ms)
    p50, p99 = statistics.median(ms), ms[int(len(ms) * 0.99)]
    return (
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {ms[-1]:.1f} ms, early {taken.early}, duplicates {taken.duplicates}"
    )


def _rss(running: Schedulers) -> str:
    return ", ".join("{:.0f} (peak {:.0f}) MiB".format(*running.rss_mib(n)) for n in range(len(running.processes)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", choices=["spread", "burst", "freeze", "replicas", "pending", "held", []]
    )
    parser.add_argument("--pending", type=int, default=10_000_000, help="rows that wait (%(default)s)")
    parser.add_argument("--burst", type=int, default=20_000, help="due at one instant (%(default)s)")
    parser.add_argument("--seconds", type=int, default=60, help="of the spread (%(default)s)")
    parser.add_argument("--frozen-s", type=float, default=8.0, help="how long one is stopped (%(default)s)")
    parser.add_argument("--frozen-per-s", type=int, default=500, help="tasks a second meanwhile (%(default)s)")
    parser.add_argument("--port-offset", type=int, default=3000, help="added to every port (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
