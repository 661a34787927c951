import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from libs.common import admin
from libs.common.admin import AdminServer, AliveCheck, CannotListen, ReadyCheck, serve
from libs.common.lifecycle import Fatal
from libs.common.metrics import build_info

LOCAL = "127.0.0.1"


async def answers() -> None:
    return


async def refuses() -> None:
    raise ConnectionRefusedError("no route to postgres://carillon:hunter2@db/x")


class Admin:
    """A running admin server and a client for it."""

    def __init__(self, port: int, session: aiohttp.ClientSession, stopping: asyncio.Event) -> None:
        self.stopping = stopping
        self._session = session
        self._url = f"http://{LOCAL}:{port}"

    async def get(self, path: str, accept: str = "*/*") -> tuple[int, str, str]:
        async with self._session.get(self._url + path, headers={"Accept": accept}) as response:
            return response.status, await response.text(), response.headers["Content-Type"]

    async def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        status, text, _ = await self.get(path)
        return status, json.loads(text)


@asynccontextmanager
async def running(
    ready: Mapping[str, ReadyCheck] | None = None, alive: Mapping[str, AliveCheck] | None = None
) -> AsyncIterator[Admin]:
    server, stopping = AdminServer(LOCAL, 0, ready=ready or {}, alive=alive or {}), asyncio.Event()
    task = asyncio.create_task(server.run(stopping))
    try:
        async with aiohttp.ClientSession() as session:
            yield Admin(await asyncio.wait_for(server.bound_port(), timeout=5), session, stopping)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_process_whose_loops_live_is_live() -> None:
    async with running(alive={"wheel": lambda: None}) as server:
        assert await server.ask("/livez") == (200, {"status": "ok"})


async def test_a_dead_loop_is_named() -> None:
    async with running(alive={"wheel": lambda: "no turn for 30 s", "sweep": lambda: None}) as server:
        assert await server.ask("/livez") == (
            503,
            {"status": "dead", "checks": {"wheel": "no turn for 30 s"}},
        )


async def test_a_process_whose_dependencies_answer_is_ready() -> None:
    async with running(ready={"postgres": answers}) as server:
        assert await server.ask("/readyz") == (200, {"status": "ok"})


async def test_a_dependency_that_is_away_is_named_with_its_reason_and_without_its_password() -> None:
    async with running(ready={"postgres": refuses, "redis": answers}) as server:
        status, body = await server.ask("/readyz")

    assert status == 503
    assert body["status"] == "not ready"
    assert body["checks"] == {
        "postgres": "ConnectionRefusedError: no route to postgres://<hidden>@db/x",
    }


async def test_a_check_that_does_not_answer_is_cut_off_and_checks_run_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admin, "READY_CHECK_S", 0.05)

    async def hangs() -> None:
        await asyncio.Event().wait()

    async with running(ready={"amqp": hangs, "redis": hangs}) as server:
        status, body = await server.ask("/readyz")

    assert (status, set(body["checks"].values())) == (503, {"no answer within 0.05 s"})


async def test_a_check_that_ends_in_a_bare_cancellation_counts_as_away() -> None:
    async def cancelled_by_a_library() -> None:
        raise asyncio.CancelledError

    async with running(ready={"amqp": cancelled_by_a_library}) as server:
        status, body = await server.ask("/readyz")

    assert (status, list(body["checks"])) == (503, ["amqp"])


async def test_a_stopping_process_is_draining_yet_live() -> None:
    async with running(ready={"postgres": answers}) as server:
        server.stopping.set()

        status, body = await server.ask("/readyz")

        assert (status, body["status"]) == (503, "draining")
        assert (await server.ask("/livez"))[0] == 200


async def test_metrics_come_as_text_or_openmetrics_as_asked() -> None:
    build_info("scheduler", "1.2.3")

    async with running() as server:
        _, text, text_type = await server.get("/metrics")
        _, openmetrics, openmetrics_type = await server.get("/metrics", "application/openmetrics-text")

    assert text_type.startswith("text/plain")
    assert openmetrics_type.startswith("application/openmetrics-text")
    assert openmetrics.endswith("# EOF\n")
    assert 'carillon_build_info{service="scheduler",version="1.2.3"} 1.0' in text
    assert "process_open_fds" in text
    assert "python_gc_collections_total" in text
    assert "_created" not in text


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind((LOCAL, 0))
        taken.listen()
        yield taken.getsockname()[1]


async def test_a_taken_port_says_which_and_which_setting_changes_it(taken_port: int) -> None:
    server = AdminServer(LOCAL, taken_port, ready={})

    with pytest.raises(CannotListen, match=rf"{LOCAL}:{taken_port}: another process.*CARILLON_ADMIN_PORT"):
        await server.run(asyncio.Event())


async def test_an_address_that_is_not_ours_is_fatal_too() -> None:
    with pytest.raises(Fatal, match=r"192.0.2.1:80.*CARILLON_HOST"):
        async with serve(web.Application(), "192.0.2.1", 80, setting="CARILLON_HOST"):
            pass


async def test_a_request_in_hand_is_finished_before_the_server_is_gone() -> None:
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        started.set()
        await finish.wait()
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/", slow)
    async with aiohttp.ClientSession() as session:
        async with serve(app, LOCAL, 0, setting="CARILLON_PORT", drain_s=5) as port:
            asking = asyncio.create_task(session.get(f"http://{LOCAL}:{port}/"))
            await asyncio.wait_for(started.wait(), timeout=5)
            asyncio.get_running_loop().call_later(0.05, finish.set)
        response = await asking
        assert await response.text() == "done"
