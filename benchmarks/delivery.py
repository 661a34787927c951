"""`python -m benchmarks.delivery`: the dispatcher's promises, measured on a stack of its own.

    python -m benchmarks.delivery [ladder restart dead herd rolling]

    ladder    500 failing tasks over rungs of 1, 2 and 5 s: how much later than exactly each call comes
    restart   the same with the broker killed in the middle: the longest wait after it is back
    dead      300 tasks/s to a healthy host for 20 s: alone, with 10,000 in that time to one whose connects time out,
              and with as many to one that answers; five times
    herd      the same with the 10,000 due at one instant
    rolling   two dispatchers at 500 tasks/s, each restarted in turn by SIGTERM: what is lost or called twice

Tasks are put into the scheduler's table by SQL. What it prints it measured, on this machine, now.
"""

import argparse
import asyncio
import os
import signal
import socket
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aio_pika
import aiohttp

from benchmarks.called import SinkProcess, sink_process
from benchmarks.machine import description, load_average
from benchmarks.phases import Stuck, reach
from benchmarks.schedulers import empty, insert
from deploy.local.errors import StackError
from deploy.local.layout import LOOPBACK, replica_name
from deploy.local.private import PrivateStack, private_stack
from deploy.local.processes import read_pid
from libs.common import topology
from libs.common.clock import to_ms

FOLDER = Path(".local") / "delivery"
RUNGS_S = (1.0, 2.0, 5.0)
# Beyond the horizon: a scheduler knows what is due within it by its accepts, and nobody else writes its table.
HORIZON_S, LEAD_S = 10, 15.0
PAIRS = 5
EACH = ("ladder", "restart", "dead", "herd", "rolling")
SETTINGS = {
    "CARILLON_RETRY_SCHEDULE_S": ",".join(f"{rung_s:g}" for rung_s in RUNGS_S),
    "CARILLON_HORIZON_S": str(HORIZON_S),
    "CARILLON_LOG_LEVEL": "warning",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.delivery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", choices=[*EACH, []])
    parser.add_argument("--port-offset", type=int, default=3100, help="added to every port (%(default)s)")
    options = parser.parse_args()
    chosen = options.scenarios or EACH
    load_before, port = load_average(), options.port_offset
    try:
        for replicas, names in ((1, EACH[:-1]), (2, EACH[-1:])):
            if some := [name for name in names if name in chosen]:
                with private_stack(FOLDER, port_offset=port, replicas=replicas, settings=SETTINGS) as stack:
                    asyncio.run(measure(stack, some, load_before))
    except (StackError, Stuck) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def say(line: str) -> None:
    print(line, flush=True)


async def measure(stack: PrivateStack, scenarios: list[str], load_before: float) -> None:
    machine = await description(stack.variables)
    say("  ".join(f"{name} {value}" for name, value in machine.items()) + f"  load before {load_before:.2f}")
    run: dict[str, Callable[[PrivateStack, SinkProcess], Awaitable[None]]] = {
        "ladder": ladder,
        "restart": restart,
        "dead": dead,
        "herd": herd,
        "rolling": rolling,
    }
    async with aiohttp.ClientSession() as session:
        for name in scenarios:
            async with sink_process(session) as sink:
                await run[name](stack, sink)


async def ladder(stack: PrivateStack, sink: SinkProcess) -> None:
    times = await _climbed(stack, sink)
    for number, rung_s in enumerate(RUNGS_S):
        late = sorted(at[number + 1] - at[number] - rung_s * 1000 for at in times.values())
        say(f"ladder     rung {rung_s:g} s: {_spread(late)} ms later than exactly, {len(late)} calls")


async def restart(stack: PrivateStack, sink: SinkProcess) -> None:
    """The pause that counts: from the broker's return to the call, or from the call's own time when that is later."""
    killed = asyncio.create_task(_kill_broker(stack, LEAD_S + 3.0))
    times = await _climbed(stack, sink)
    back_ms = await killed
    waits = [
        at[number + 1] - max(back_ms, at[number] + rung_s * 1000)
        for at in times.values()
        for number, rung_s in enumerate(RUNGS_S)
        if at[number + 1] > back_ms
    ]
    say(f"restart    {len(waits)} calls with the broker back: {_spread(sorted(waits))} ms later than they could come")


async def dead(stack: PrivateStack, sink: SinkProcess) -> None:
    await _beside_a_dead_one(stack, sink, "dead", step_ms=2.0)


async def herd(stack: PrivateStack, sink: SinkProcess) -> None:
    await _beside_a_dead_one(stack, sink, "herd", step_ms=0.0)


async def _beside_a_dead_one(stack: PrivateStack, sink: SinkProcess, name: str, step_ms: float) -> None:
    """Each pair has a third run, with as many tasks to a host that answers: what the load alone does."""
    ratios: dict[str, list[float]] = {"dead": [], "alive": []}
    for pair in range(PAIRS):
        p99 = {}
        for other in ("none", "dead", "alive") if pair % 2 else ("alive", "dead", "none"):
            with _dead_host() as dead_url:
                url = {"none": None, "dead": dead_url, "alive": f"{_other_name(sink.url)}/called"}[other]
                p99[other] = await _healthy_p99(stack, sink, url, step_ms, is_called=other == "alive")
            await _clean(stack)
        for other, of_pairs in ratios.items():
            of_pairs.append(p99[other] / p99["none"])
        say(
            f"{name}       pair {pair + 1}: p99 {p99['none']:.0f} ms alone, {p99['dead']:.0f} ms with the dead one"
            f" ({ratios['dead'][-1]:.2f}), {p99['alive']:.0f} ms with one that answers ({ratios['alive'][-1]:.2f})"
        )
    medians = {other: statistics.median(of_pairs) for other, of_pairs in ratios.items()}
    say(f"{name}       median of {PAIRS} pairs: {medians['dead']:.2f} dead, {medians['alive']:.2f} alive")


def _other_name(url: str) -> str:
    """Another host to the dispatcher, the same sink."""
    return url.replace(LOOPBACK, "localhost")


async def rolling(stack: PrivateStack, sink: SinkProcess) -> None:
    per_s, seconds = 500, 40
    due_ms = await insert(stack, per_s * seconds, _in(LEAD_S), 1000 / per_s, f"{sink.url}/called")
    await asyncio.sleep(LEAD_S)
    for number in (1, 2):
        await asyncio.sleep(10)
        pid = _pid(stack, replica_name("dispatcher", number))
        os.kill(pid, signal.SIGTERM)
        say(f"rolling    dispatcher {number} asked to stop at {time.strftime('%X')}")
    await reach("tasks called", len(due_ms), sink.count)
    await asyncio.sleep(10)
    calls = Counter(id_ for id_, _at in await sink.calls())
    late = sorted(at - due_ms[id_] for id_, at in await sink.calls())
    say(
        f"rolling    {len(due_ms)} tasks: lost {len(due_ms.keys() - calls.keys())},"
        f" called twice {sum(times - 1 for times in calls.values())}, early {sum(ms < 0 for ms in late)};"
        f" lateness {_spread(late)} ms"
    )


async def _climbed(stack: PrivateStack, sink: SinkProcess) -> dict[str, list[int]]:
    """500 tasks that fail on every rung: when each was called, in ms."""
    due_ms = await insert(stack, 500, _in(LEAD_S), 4, f"{sink.url}/fail")
    deadline = time.monotonic() + 120
    times: dict[str, list[int]] = {}
    while not times or any(len(at) <= len(RUNGS_S) for at in times.values()):
        if time.monotonic() > deadline:
            raise Stuck(f"{sum(len(at) > len(RUNGS_S) for at in times.values())} of 500 tasks at the end of the ladder")
        await asyncio.sleep(0.5)
        found = defaultdict(list)
        for id_, at in await sink.calls():
            found[id_].append(at)
        times = {id_: found[id_] for id_ in due_ms}
    return times


async def _healthy_p99(
    stack: PrivateStack, sink: SinkProcess, other_url: str | None, step_ms: float, *, is_called: bool
) -> float:
    per_s, seconds, others = 300, 20, 10_000
    start = _in(LEAD_S)
    before = await sink.count()
    due_ms = await insert(stack, per_s * seconds, start, 1000 / per_s, f"{sink.url}/called")
    if other_url is not None:
        first_at = start if step_ms else start + timedelta(seconds=seconds / 4)
        await insert(stack, others, first_at, step_ms, other_url, schedule_s=())
    await reach("healthy tasks called", before + len(due_ms) + others * is_called, sink.count)
    late = sorted(at - due_ms[id_] for id_, at in await sink.calls() if id_ in due_ms)
    return max(late[int(len(late) * 0.99)], 1)


@contextmanager
def _dead_host() -> Iterator[str]:
    """A port whose connects are neither taken nor refused: the queue of those that wait to be taken is full."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((LOOPBACK, port))
        try:
            yield f"http://{LOOPBACK}:{port}/hook"
        finally:
            for filler in fillers:
                filler.close()


async def _clean(stack: PrivateStack) -> None:
    """Nothing of the last run is left to be called."""
    queues = (topology.DISPATCHER_DUE, topology.SCHEDULER_RETURNS, topology.DISPATCHER_RETRY_DUE)
    async with await aio_pika.connect(stack.variables["CARILLON_AMQP_URL"]) as connection:
        channel = await connection.channel()
        for _ in range(3):  # what is in hand meanwhile goes on its way
            await empty(stack)
            for name in queues:
                await (await channel.get_queue(name, ensure=False)).purge()
            await asyncio.sleep(5)


async def _kill_broker(stack: PrivateStack, after_s: float) -> int:
    """Gives when it was back, in ms."""
    await asyncio.sleep(after_s)
    os.kill(_pid(stack, "rabbitmq"), signal.SIGKILL)
    killed_at = time.monotonic()
    while True:
        await asyncio.sleep(0.1)
        try:
            async with await aio_pika.connect(stack.variables["CARILLON_AMQP_URL"], timeout=1) as connection:
                channel = await connection.channel()
                await channel.get_queue(topology.DISPATCHER_DUE)
        except Exception:  # noqa: BLE001, S112  whatever it says, it is not back
            continue
        say(f"restart    the broker was away for {time.monotonic() - killed_at:.1f} s")
        return to_ms(datetime.now(UTC))


def _pid(stack: PrivateStack, name: str) -> int:
    pid = read_pid(stack.layout.pids / name)
    assert pid is not None, name
    return pid


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def _spread(values: list[float] | list[int]) -> str:
    if not values:
        return "none"
    return (
        f"p50 {statistics.median(values):.0f}, p99 {values[int(len(values) * 0.99)]:.0f},"
        f" max {values[-1]:.0f}, min {values[0]:.0f}"
    )


if __name__ == "__main__":
    sys.exit(main())
