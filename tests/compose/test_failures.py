"""Replicas share the work; deaths and a cut network lose nothing. Numbers are told at the end of the session."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.checker import Accepted, check
from tests.chaos.client import Client
from tests.compose.load import Aftermath, aftermath, steady_load
from tests.compose.outside import URL, Mailpit, Prometheus, Sink
from tests.compose.project import Project, is_healthy, name_of, service_of
from tests.compose.waiting import eventually
from tests.e2e.conftest import create

# The dispatcher first: a call that it leaves behind is repeated 25 s later, while others die.
VICTIMS = ("dispatcher", "ingest", "scheduler", "mailer", "rabbitmq", "postgres", "redis")
BACK_WITHIN_S = 60.0
CUT_S = 30.0
# In the end 600 requests wait for their 201: four times a second each, they would be a load of their own.
REPEAT_AFTER_S = 2.0
SEED = 20261121
REPLICAS = {"dispatcher": 3, "scheduler": 2}
WORK_DONE = {"dispatcher": "carillon_dispatcher_attempts", "scheduler": "carillon_scheduler_accepted"}
SHARED_TASKS = 300


@pytest.mark.timeout(300)
async def test_more_replicas_share_the_work(
    stack: Project, api: aiohttp.ClientSession, prometheus: Prometheus, note: Callable[[str], None]
) -> None:
    started = time.monotonic()
    more = [word for service, count in REPLICAS.items() for word in ("--scale", f"{service}={count}")]
    await asyncio.to_thread(stack.up, "--no-recreate", *more)
    try:
        work = await _shared(stack, api)
        for service, count in REPLICAS.items():
            await _scraped(prometheus, service, count)
    finally:
        await asyncio.to_thread(stack.up, "--no-recreate")
    note(f"scale: {SHARED_TASKS} tasks shared as {work}, {time.monotonic() - started:.0f} s")


@pytest.mark.timeout(420)
async def test_the_crash_of_each_container_in_turn_loses_nothing(
    stack: Project, http: aiohttp.ClientSession, sink: Sink, mailpit: Mailpit, note: Callable[[str], None]
) -> None:
    back_after_s: dict[str, int] = {}
    await mailpit.empty()
    client = Client(http, [stack.url("ingest", 8080)], run=f"{stack.name}-crash")
    async with steady_load(client, SEED):
        for victim in VICTIMS:
            await asyncio.sleep(2)  # of load on a whole stack
            back_after_s[victim] = round(await _crash(stack, victim))
    found = await aftermath(client, http, sink, mailpit)
    note(f"crash: back after {back_after_s} s; {found.text()}")
    assert found.faults == []
    _the_checker_sees_what_is_wrong(found, sink)


@pytest.mark.timeout(420)
async def test_a_broker_that_is_cut_off_for_half_a_minute_costs_time_and_no_task(
    stack: Project, http: aiohttp.ClientSession, sink: Sink, mailpit: Mailpit, note: Callable[[str], None]
) -> None:
    await mailpit.empty()
    client = Client(http, [stack.url("ingest", 8080)], run=f"{stack.name}-cut", repeat_after_s=REPEAT_AFTER_S)
    async with steady_load(client, SEED + 1):
        await asyncio.sleep(3)
        networks = await asyncio.to_thread(stack.cut_off, "rabbitmq")
        try:
            await asyncio.sleep(CUT_S)
            assert client.answers["HTTP 503"] > 0, "the broker was away, and ingest did not say so"
            accepted = len(client.accepted)
        finally:
            await asyncio.to_thread(stack.join, "rabbitmq", networks)

        async def is_accepting() -> bool:
            return len(client.accepted) > accepted

        await eventually("201 again", is_accepting, BACK_WITHIN_S)
    found = await aftermath(client, http, sink, mailpit)
    note(f"cut: RabbitMQ away for {CUT_S:.0f} s; {found.text()}")
    assert found.faults == []


async def _crash(stack: Project, victim: str) -> float:
    """Kill it, and wait until it serves again; gives the seconds."""
    before = await asyncio.to_thread(stack.container, victim)
    killed_at = time.monotonic()
    await asyncio.to_thread(stack.crash, victim)

    async def is_back() -> bool:
        now = await asyncio.to_thread(stack.container, victim)
        return is_healthy(now) and now["State"]["StartedAt"] != before["State"]["StartedAt"]

    await eventually(f"{victim} healthy again", is_back, BACK_WITHIN_S)
    return time.monotonic() - killed_at


def _the_checker_sees_what_is_wrong(found: Aftermath, sink: Sink) -> None:
    """Negative control: the same calls against a promise that nobody kept, and one that was kept too early."""
    invented = Accepted("invented", found.accepted[0].due_ms)
    assert check([*found.accepted, invented], sink.calls).lost == ("invented",)
    later = replace(found.accepted[0], due_ms=found.accepted[0].due_ms + 3_600_000)
    assert {call.id for call in check([later], sink.calls).early} == {later.id}


async def _shared(stack: Project, api: aiohttp.ClientSession) -> dict[str, list[float]]:
    """Work done by each replica, once every one has done some."""
    await asyncio.gather(*(create(api, url=f"{URL}/ok/shared", delay=2) for _ in range(SHARED_TASKS)))

    async def look() -> dict[str, list[float]] | None:
        containers = await asyncio.to_thread(stack.containers, *REPLICAS)
        done = await asyncio.gather(*(asyncio.to_thread(_work_of, stack, each) for each in containers))
        by_service = {service: sorted(n for name, n in done if name == service) for service in REPLICAS}
        is_shared = all(len(by_service[name]) == count and by_service[name][0] > 0 for name, count in REPLICAS.items())
        return by_service if is_shared else None

    return await eventually(f"{REPLICAS} replicas, each with work done", look, within_s=40)


def _work_of(stack: Project, container: dict[str, Any]) -> tuple[str, float]:
    """Read from inside the container: replicas have no port on the host."""
    service, index = service_of(container), name_of(container).rpartition("-")[2]
    port = {"dispatcher": 9103, "scheduler": 9102}[service]
    read = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/metrics', timeout=5).read().decode())"
    text = stack.compose("exec", "--no-TTY", "--index", index, service, "python", "-c", read)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return service, sum(sample.value for sample in families[WORK_DONE[service]].samples)


async def _scraped(prometheus: Prometheus, service: str, count: int) -> None:
    async def look() -> bool:
        return [value for _, value in await prometheus.query(f'count(up{{job="carillon-{service}"}} == 1)')] == [count]

    await eventually(f"Prometheus scrapes {count} x {service}", look, within_s=45)
