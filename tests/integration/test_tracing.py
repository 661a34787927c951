"""From a client's request to the calls of its receiver, through real processes, as a collector sees it."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.collector import Collector, collector
from tests.conftest import RETRY_SCHEDULE_S, ROOT
from tests.integration.dispatcher.rig import Received, receiver
from tests.integration.rig import until

KEY = "a-key-for-the-tests-of-tracing"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLIENTS = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def made() -> Iterator[Collector]:
    with collector() as made:
        yield made


@pytest.fixture
def environ(amqp_url: str, migrated_postgres_url: str, redis_url: str) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "PATH": os.environ["PATH"],
        "CARILLON_AMQP_URL": amqp_url,
        "CARILLON_POSTGRES_URL": migrated_postgres_url,
        "CARILLON_REDIS_URL": redis_url,
        "CARILLON_BOOTSTRAP_KEY": KEY,
        "CARILLON_SIGNING_MASTER_KEY": f"{KEY}-signing",
        "CARILLON_HOST": "127.0.0.1",
        "CARILLON_PORT": str(port),
        "CARILLON_ADMIN_HOST": "127.0.0.1",
        "CARILLON_ADMIN_PORT": "0",
        "CARILLON_REPLICA": "one",
        "CARILLON_ALLOW_NETWORKS": "127.0.0.0/8",
        "CARILLON_RETRY_SCHEDULE_S": ",".join(map(str, RETRY_SCHEDULE_S)),
    }


@asynccontextmanager
async def services(environ: dict[str, str], logs: Path) -> AsyncIterator[aiohttp.ClientSession]:
    """Ingest, scheduler and dispatcher, and a client of them; asked to stop at the end, which they do with 0."""
    running = {}
    try:
        for service in ("ingest", "scheduler", "dispatcher"):
            with (logs / service).open("w") as log:
                running[service] = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", f"services.{service}", cwd=ROOT, env=environ, stdout=log, stderr=log
                )
        for service, process in running.items():
            await until(f"{service} to be up", lambda name=service: _is_up(logs / name), within_s=60)  # type: ignore[misc]
            assert process.returncode is None
        url = f"http://127.0.0.1:{environ['CARILLON_PORT']}"
        async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {KEY}"}) as client:
            yield client
        for process in running.values():
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(20):
                for process in running.values():
                    await process.wait()
        ends = {service: process.returncode for service, process in running.items()}
        assert ends == dict.fromkeys(running, 0), "".join(_end_of(logs / service) for service in running)
    finally:
        for process in running.values():
            if process.returncode is None:
                process.kill()
                await process.wait()


def _end_of(log: Path) -> str:
    return f"\n{log.name}:\n" + "\n".join(log.read_text().splitlines()[-10:])


def _is_up(log: Path) -> bool:
    return log.read_text().count("connection.opened") >= 2


async def post(client: aiohttp.ClientSession, **task: Any) -> str:
    async with client.post("/v1/tasks", json=task, headers={"traceparent": CLIENTS}) as response:
        assert response.status == 201, await response.text()
        return str((await response.json())["id"])


async def test_one_trace_leads_from_the_request_to_every_call_of_it(
    environ: dict[str, str], made: Collector, tmp_path: Path
) -> None:
    statuses = [503, 200]

    async def answer(_received: Received) -> web.StreamResponse:
        return web.Response(status=statuses.pop(0))

    on = environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": made.url, "OTEL_BSP_SCHEDULE_DELAY": "60000"}
    async with receiver(answer) as called, services(on, tmp_path) as client:
        task_id = await post(client, url=f"{called.url}/hook?token=secret", delay=0.3)
        await called.got(2)
    # The delay above is longer than the test: all of it came with the drain.
    [accepted], attempts = made.of("SERVER"), made.of("CLIENT")
    assert (accepted.service, accepted.replica, accepted.name) == ("carillon-ingest", "one", "POST /v1/tasks")
    assert (accepted.trace_id, accepted.parent_id) == (TRACE, PARENT)
    assert accepted.attributes["carillon.task.id"] == task_id
    attempts.sort(key=lambda span: int(str(span.attributes["carillon.attempt"])))
    assert [span.attributes["carillon.attempt"] for span in attempts] == [1, 2]
    assert [span.attributes["http.response.status_code"] for span in attempts] == [503, 200]
    assert [span.is_error for span in attempts] == [True, False]
    for span in attempts:
        assert span.service == "carillon-dispatcher"
        assert (span.parent_id, span.links) == ("", [(TRACE, accepted.span_id)])
        assert span.attributes["carillon.task.id"] == task_id
        assert span.attributes["url.full"] == f"{called.url}/hook"
        assert 0 <= float(str(span.attributes["carillon.lateness_s"])) < 10
    assert len({TRACE, *(span.trace_id for span in attempts)}) == 3
    for span, got in zip(attempts, called.requests, strict=True):
        assert span.is_named_by(got.header("traceparent"))


async def test_off_the_receiver_gets_the_clients_own(environ: dict[str, str], made: Collector, tmp_path: Path) -> None:
    off = environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": made.url, "OTEL_SDK_DISABLED": "true"}
    async with receiver() as called, services(off, tmp_path) as client:
        await post(client, url=called.url)
        await called.got(1)
        await post(client, url=called.url, headers={"Traceparent": "mine"})
        await called.got(2)
    assert [got.header("traceparent") for got in called.requests] == [CLIENTS, "mine"]
    assert made.sent == []


async def test_a_collector_that_does_not_answer_delays_neither_a_call_nor_the_end(
    environ: dict[str, str], made: Collector, tmp_path: Path
) -> None:
    made.answers.clear()
    on = environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": made.url, "OTEL_BSP_SCHEDULE_DELAY": "10"}
    async with receiver() as called, services(on, tmp_path) as client:
        for _ in range(20):
            await post(client, url=called.url)
        await called.got(20)
    for service in ("ingest", "dispatcher"):
        assert (tmp_path / service).read_text().count("tracing.") == 1  # the end, cut off
