"""`make bench`: Carillon and its peers in one run, on the same sink, servers and cores.

    python -m benchmarks.peers [names...] [--tasks 20000] [--kill-tasks 2000] [--limit 300] [--write]

Each gets servers of its own, from nothing, one after the other: PostgreSQL, RabbitMQ and Valkey of deploy.local. What
it found is printed and written to .local/peers/summary.json; `--write` makes docs/performance.md and its plots of it,
of a whole run only. What it prints it measured, on this machine, now.
"""

import argparse
import asyncio
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from benchmarks.called import sink_process
from benchmarks.machine import description, load_average
from benchmarks.peers import page
from benchmarks.peers.carillon import Carillon
from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.contestant import Contestant, PeerContestant
from benchmarks.peers.figures import Report, Result
from benchmarks.peers.install import Environment, InstallError, installed
from benchmarks.peers.measure import Course
from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack

FOLDER = Path(".local") / "peers"
CARILLON = "Carillon"
TASKS, KILL_TASKS = 20_000, 2_000


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.write and (options.names or (options.tasks, options.kill_tasks) != (TASKS, KILL_TASKS)):
        parser.error("--write is for all of them with the usual sizes")
    if options.page:
        return write(msgspec.json.decode(options.page.read_bytes(), type=Report))
    try:
        report = run(options)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted; the stack is down")
        return 130
    summary = FOLDER / "summary.json"
    summary.write_bytes(msgspec.json.format(msgspec.json.encode(asdict(report)), indent=1))
    say(f"\n{page.tables(report)}\n\nsummary: {summary}")
    failed = write(report) if options.write else 0
    return failed or int(not all(_kept(result) for result in report.results if result.name == CARILLON))


def write(report: Report) -> int:
    """The page, of a whole run only. Gives the exit status."""
    sizes = (report.tasks, report.kill_tasks)
    if [result.name for result in report.results] != _names() or sizes != (TASKS, KILL_TASKS):
        print("error: no page is written: it is of every system, with the usual sizes", file=sys.stderr)
        return 1
    try:
        say("\n".join(f"wrote {path}" for path in page.write(report)))
    except page.NotWhole as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def say(line: str) -> None:
    print(line, flush=True)


def run(options: argparse.Namespace) -> Report:
    """Raises: InstallError."""
    load_before = load_average()
    environment = installed(FOLDER.resolve())
    results: list[Result] = []
    machine: dict[str, str] = {}
    for name in options.names or _names():
        say(name)
        result = _result(name, environment)
        results.append(result)
        replicas = 1 if name == CARILLON else 0
        try:
            with private_stack(
                FOLDER / "stack", port_offset=options.port_offset, replicas=replicas, settings={}
            ) as stack:
                machine = machine or asyncio.run(description(stack.variables))
                asyncio.run(measure(result, environment, stack, options))
        except StackError as error:
            say(f"  {error}")
            result.failures["servers"] = str(error).replace("\n", " ")
    return Report(
        at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=machine,
        load_before=load_before,
        tasks=options.tasks,
        kill_tasks=options.kill_tasks,
        limit_s=options.limit,
        results=results,
    )


async def measure(result: Result, environment: Environment, stack: PrivateStack, options: argparse.Namespace) -> None:
    async with aiohttp.ClientSession() as session, sink_process(session) as sink:
        call_url = f"{sink.url}/called"
        contestant: Contestant
        if result.name == CARILLON:
            contestant = Carillon(stack, call_url, session)
        else:
            log = stack.layout.logs / f"{result.name}.log"
            contestant = PeerContestant(_peer(result.name), environment, stack, call_url, log)
        course = Course(contestant, stack, sink, options.limit, say)
        await course.run(result, options.tasks, options.kill_tasks)


def _result(name: str, environment: Environment) -> Result:
    """With nothing in it yet."""
    if name == CARILLON:
        return Result(CARILLON, "this tree", "default settings, one process per service", _AFTER_KILL, ())
    peer = _peer(name)
    return Result(name, environment.versions[peer.package], peer.configuration, peer.after_kill, peer.docs)


def _peer(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


_AFTER_KILL = (
    "scheduler and dispatcher are killed; what waits goes on at once, what was being called is called again when the "
    "claim of the dead dispatcher ends: at most 8 s, then the shortest rung (5 s)"
)


def _kept(result: Result) -> bool:
    """Nothing failed, nothing lost, nothing early."""
    seen = [load.calls for load in (result.burst, result.spread) if load is not None]
    early = any(calls.early for calls in seen) or (result.kill is not None and result.kill.early)
    return not result.failures and not early and result.kill is not None and not result.kill.lost


def _names() -> list[str]:
    return [CARILLON, *(peer.name for peer in PEERS)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", choices=[*_names(), []], help=f"all of {', '.join(_names())}")
    parser.add_argument("--tasks", type=int, default=TASKS, help="of the burst, and of the spread (%(default)s)")
    parser.add_argument("--kill-tasks", type=int, default=KILL_TASKS, help="of the burst with a kill (%(default)s)")
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds that one measurement may take (%(default)s)"
    )
    parser.add_argument("--port-offset", type=int, default=3300, help="added to every port (%(default)s)")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md of this run")
    parser.add_argument("--page", type=Path, metavar="SUMMARY", help="measure nothing; write the page of that run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
