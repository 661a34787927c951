"""`make soak`: half an hour of steady, mixed load on a stack of its own; what grows, and whether lateness stays.

    python -m benchmarks.soak [--minutes 30] [--rate 300] [--replicas 1] [--write]

Every process is looked at each 5 s. Exit status 0 unless a call was missing, early or made twice, a request refused, a
process ended, a connection left open, or, of 20 minutes or more, a figure grew above its limit (benchmarks/soak/
verdict.py).
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.called import SinkProcess, sink_process
from benchmarks.cpu import pids_of
from benchmarks.machine import description, load_average
from benchmarks.phases import Meter, Stuck, reach
from benchmarks.soak import page
from benchmarks.soak.book import Book, tally
from benchmarks.soak.load import Load, session
from benchmarks.soak.samples import Sample, Sampler, calling
from benchmarks.soak.servers import servers
from benchmarks.soak.verdict import Run, failures, lines
from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from libs.common.lifecycle import pause

FOLDER = Path(".local") / "soak"
SAMPLE_EVERY_S = 5.0
OCCURRENCES_AHEAD_S = 15.0
"""What schedules have made ahead of their pause has been called, or cancelled, after so long."""
UNUSED_S = 10.0
"""No call is made any more: connections that dispatchers keep for the next one (4 s) are closed after so long."""


def main() -> int:
    options = _parser().parse_args()
    load_before = load_average()
    try:
        with private_stack(FOLDER, port_offset=options.port_offset, replicas=options.replicas, settings={}) as stack:
            run = asyncio.run(measure(stack, options, load_before))
    except (StackError, Stuck) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted; the stack is down")
        return 130
    return report(run, write=options.write)


def say(line: str) -> None:
    print(line, flush=True)


def report(run: Run, *, write: bool) -> int:
    found = failures(run)
    summary = {**asdict(run), "growth": [asdict(line) for line in lines(run)], "failures": found}
    (FOLDER / "summary.json").write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1))
    page.write(run, FOLDER)
    say(f"{page.tables(run)}\n\nsummary: {FOLDER / 'summary.json'}; page: {FOLDER / page.PAGE}")
    if write and not run.is_judged:
        found.append("too short a run for docs/soak.md: it is not written")
    elif write:
        page.write(run)
    for why in found:
        say(f"NOT PASSED: {why}")
    return 1 if found else 0


async def measure(stack: PrivateStack, options: argparse.Namespace, load_before: float) -> Run:
    """Raises: Stuck."""
    at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    before = pids_of(stack.layout)
    async with session(stack.api_key) as http, sink_process(http) as sink:
        load = Load(http, stack.api_urls(), sink.url, Book(), random.Random(options.seed))  # noqa: S311  a mix of load
        began_ms = time.time_ns() // 1_000_000
        async with sampled(stack, sink, http) as samples:
            say(f"{options.minutes:g} minutes at {options.rate:g} tasks/s")
            await load.begin()
            await load.run(options.rate, options.minutes * 60)
            await load.end()
        await settled(stack, sink, load, http)
        await asyncio.sleep(UNUSED_S)
        return Run(
            at=at,
            machine=await description(stack.variables),
            load_before=load_before,
            rate=options.rate,
            replicas=options.replicas,
            seconds=options.minutes * 60,
            samples=[sample for sample in samples if sample.at_s <= options.minutes * 60],
            tally=tally(load.book.promises, await sink.calls(), began_ms),
            refused=dict(load.refused),
            changed=dict(load.changed),
            restarted=[name for name, pid in pids_of(stack.layout).items() if before.get(name) != pid],
            left_open=calling(pids_of(stack.layout), sink.port),
        )


@asynccontextmanager
async def sampled(stack: PrivateStack, sink: SinkProcess, http: aiohttp.ClientSession) -> AsyncIterator[list[Sample]]:
    """What grows while the block runs. What ends the sampling ends the block."""
    samples, stopping = list[Sample](), asyncio.Event()
    pids = {**pids_of(stack.layout), "sink": sink.pid, "client": os.getpid()}

    async def sample() -> None:
        async with servers(stack.variables) as asked:
            sampler = Sampler(pids, stack.admin_urls(), http, asked, stack.layout.root, sink.port, time.monotonic())
            while not await pause(stopping, SAMPLE_EVERY_S):
                samples.append(await sampler.sample())
                if len(samples) % round(60 / SAMPLE_EVERY_S) == 0:
                    say(_progress(samples[-1]))

    async with asyncio.TaskGroup() as group:
        group.create_task(sample())
        yield samples
        stopping.set()


async def settled(stack: PrivateStack, sink: SinkProcess, load: Load, http: aiohttp.ClientSession) -> None:
    """Everything promised has been called, or nothing moves any more; the history knows of it."""
    await asyncio.sleep(OCCURRENCES_AHEAD_S)
    await load.note_occurrences()
    try:
        await reach("calls", load.book.calls_to_come, sink.total)
        history = Meter(stack, sink, http)
        await reach("calls in the history", await sink.total(), lambda: history.history("AttemptFinished"))
    except Stuck as stuck:  # what is missing is counted
        say(str(stuck))


def _progress(sample: Sample) -> str:
    held = ", ".join(
        f"{name} {figures['anon MiB']:.0f}" for name, figures in sample.figures.items() if "anon MiB" in figures
    )
    return f"{sample.at_s / 60:5.1f} min; MiB: {held}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of load (%(default)s)")
    parser.add_argument("--rate", type=float, default=300.0, help="tasks a second (%(default)s)")
    parser.add_argument("--replicas", type=int, default=1, help="processes of each service (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the mix (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/soak.md of what was found")
    parser.add_argument("--port-offset", type=int, default=3000, help="added to every port (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
