"""`python -m benchmarks.callers`: what one call costs each caller, side by side in one run.

One process makes POSTs of 100 bytes over 100 connections to a sink on loopback, which is a process of its own. The
callers take turns, so that a noisy minute hits all of them. CPU is this process's; calls/s are the wall's, bounded by
the sink too. A caller whose library is not installed is left out.
"""

import argparse
import asyncio
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

from benchmarks.machine import load_average
from libs.common.clock import SystemClock
from libs.common.contracts import Call
from libs.common.egress import EgressRules
from services.dispatcher.caller import Caller, Request
from services.dispatcher.guard import Egress, ssl_context
from services.dispatcher.http.caller import LeanCaller
from tests.integration.dispatcher.aiohttp_caller import AiohttpCaller

CONNECTIONS = 100
BODY = bytes(100)
# As many as the dispatcher sends.
HEADERS = (
    ("Content-Type", "application/json"),
    ("User-Agent", "Carillon/benchmark"),
    ("webhook-id", "01f0c6a4-5f0e-7b3a-9d55-2f6f0a9be001"),
    ("webhook-timestamp", "1798794000"),
    ("webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="),
    ("Idempotency-Key", "01f0c6a4-5f0e-7b3a-9d55-2f6f0a9be001"),
    ("Carillon-Attempt", "1/7"),
    ("Carillon-Due-At", "2027-01-01T09:00:00.000Z"),
)

One = Callable[[], Awaitable[object]]


class Cost(NamedTuple):
    cpu_us: float
    calls_per_s: float


@asynccontextmanager
async def aiohttp_caller(url: str) -> AsyncIterator[One]:
    caller = AiohttpCaller(_egress(), SystemClock())
    yield _calling(caller, url)
    await caller.close()


@asynccontextmanager
async def lean_caller(url: str) -> AsyncIterator[One]:
    caller = LeanCaller(_egress(), SystemClock())
    yield _calling(caller, url)
    await caller.close()


@asynccontextmanager
async def traced_aiohttp_caller(url: str) -> AsyncIterator[One]:
    """With the hooks that split timing needs."""
    caller = AiohttpCaller(_egress(), SystemClock())
    caller._session._trace_configs.append(_trace())
    yield _calling(caller, url)
    await caller.close()


@asynccontextmanager
async def pyreqwest_client(url: str) -> AsyncIterator[One]:
    """The bare client, without a guard: it pins addresses per client only, so a real caller needs one per address."""
    from pyreqwest.client import ClientBuilder  # type: ignore[import-not-found]  # noqa: PLC0415  not a dependency

    async with ClientBuilder().build() as client:

        async def one() -> None:
            response = await client.post(url).headers(dict(HEADERS)).body_bytes(BODY).build().send()
            assert response.status == 204
            await response.bytes()

        yield one


ALL = {
    "aiohttp": aiohttp_caller,
    "aiohttp, timed": traced_aiohttp_caller,
    "lean": lean_caller,
    "pyreqwest, bare": pyreqwest_client,
}


def _egress() -> Egress:
    return Egress(EgressRules(allow_networks=("127.0.0.0/8",)), ssl_context())


def _calling(caller: Caller, url: str) -> One:
    request = Request(Call(url=url, body=BODY), HEADERS)

    async def one() -> None:
        answer = await caller.call(request)
        assert answer.status_code == 204, answer

    return one


def _trace() -> aiohttp.TraceConfig:
    async def note(_session: object, context: Any, _params: object) -> None:
        context.at = time.monotonic()

    trace = aiohttp.TraceConfig()
    for signal in (
        trace.on_request_start, trace.on_request_headers_sent, trace.on_request_end, trace.on_connection_create_start,
        trace.on_connection_create_end, trace.on_dns_resolvehost_start, trace.on_dns_resolvehost_end,
    ):  # fmt: skip
        signal.append(note)
    trace.freeze()
    return trace


async def measure(one: One, count: int) -> Cost:
    left = count

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))  # connected
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(cpu * 1e6 / count, count / wall)


async def run(names: list[str], count: int, rounds: int, url: str) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            async with ALL[name](url) as one:
                costs[name].append(await measure(one, count))
    return costs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.callers", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="of each caller in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=ALL, nargs="*", default=list(ALL))
    given = parser.parse_args()
    names = [name for name in given.only if "pyreqwest" not in name or importlib.util.find_spec("pyreqwest")]
    print(
        f"{given.rounds} rounds of {given.calls:,} calls, {CONNECTIONS} connections; load before {load_average():.2f}"
    )
    with subprocess.Popen([sys.executable, "-m", "benchmarks.sink"], stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout is not None
        url = f"http://127.0.0.1:{int(sink.stdout.readline())}/hook"
        try:
            costs = asyncio.run(run(names, given.calls, given.rounds, url))
        finally:
            sink.terminate()
    print(f"{'':18} {'CPU us/call':>20} {'calls/s':>22}\n{'':18} {'best':>10} {'median':>9} {'best':>12} {'median':>9}")
    for name, rounds in costs.items():
        cpu, speed = [cost.cpu_us for cost in rounds], [cost.calls_per_s for cost in rounds]
        print(
            f"{name:18} {min(cpu):10.1f} {statistics.median(cpu):9.1f}"
            f" {max(speed):12,.0f} {statistics.median(speed):9,.0f}"
        )
    print(f"load after {load_average():.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
