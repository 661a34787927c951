"""A stack with two replicas of everything under `.local/e2e`, and a receiver that its tasks call."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import web

from deploy.local.private import read_env_file
from tests.conftest import ROOT, fresh_folder

STACK = ROOT / ".local" / "e2e"
PORT_OFFSET = 2000
REPLICAS = 2
# Two rungs, so that a test can climb them; a digest every five seconds.
RETRY_SCHEDULE_S = (1.0, 2.0)
SETTINGS = {
    "CARILLON_RETRY_SCHEDULE_S": ",".join(f"{delay_s:g}" for delay_s in RETRY_SCHEDULE_S),
    "CARILLON_DIGEST_CRON": "*/5 * * * * *",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One request as the receiver saw it."""

    at: datetime
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers what `answers[name]` says, in order, the last one for ever; 200 when nothing is said.

    It says nothing of `name` before the event `gates[name]`.
    """

    url: str = ""
    calls: dict[str, list[Call]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)

    async def called(self, request: web.Request) -> web.Response:
        name = request.path.strip("/").split("/")[0]
        headers = {key.lower(): value for key, value in request.headers.items()}
        seen = self.calls.setdefault(name, [])
        seen.append(Call(datetime.now(UTC), request.method, request.path_qs, headers, await request.read()))
        answers, number = self.answers.get(name, [200]), len(seen)
        if name in self.gates:
            await self.gates[name].wait()
        return web.Response(status=answers[min(number, len(answers)) - 1], text="answer")


@pytest.fixture(scope="session")
def stack() -> Iterator[dict[str, str]]:
    """The stack's variables, CARILLON_URL and CARILLON_API_KEY among them."""
    command = [sys.executable, "-m", "deploy.local"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")} | SETTINGS
    up = [*command, "up", "--dir", str(STACK), "--port-offset", str(PORT_OFFSET), "--replicas", str(REPLICAS)]
    fresh_folder(STACK, environ)
    done = subprocess.run(up, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    try:
        if done.returncode != 0:
            reason = f"the stack does not start: {(done.stdout + done.stderr)[-3000:]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        yield read_env_file(STACK / "env")
    finally:
        subprocess.run([*command, "down", "--dir", STACK], cwd=ROOT, env=environ, check=False, capture_output=True)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listening() as receiver:
        yield receiver


@asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
    """A receiver on a free port of loopback."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", receiver.called)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@pytest.fixture
async def api(stack: dict[str, str]) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the first ingest, with the key."""
    headers = {"Authorization": f"Bearer {stack['CARILLON_API_KEY']}"}
    async with aiohttp.ClientSession(stack["CARILLON_URL"], headers=headers) as session:
        yield session


async def eventually(what: str, look: Callable[[], T | Awaitable[T | None] | None], within_s: float = 20.0) -> T:
    """The first true answer of `look`. Fails naming what was awaited."""
    answer: Any = None
    try:
        async with asyncio.timeout(within_s):
            while True:
                answer = look()
                if isinstance(answer, Awaitable):
                    answer = await answer
                if answer:
                    return answer  # type: ignore[no-any-return]
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{what}: not within {within_s:g} s; last seen: {answer!r}")


async def create(api: aiohttp.ClientSession, key: str | None = None, **task: Any) -> dict[str, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    async with api.post("/v1/tasks", json=task, headers=headers) as response:
        assert response.status == 201, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def task_in(api: aiohttp.ClientSession, task_id: str, *states: str, within_s: float = 20.0) -> dict[str, Any]:
    """The task, once it is in one of `states`."""

    async def look() -> dict[str, Any] | None:
        async with api.get(f"/v1/tasks/{task_id}") as response:
            task: dict[str, Any] = await response.json()
            return task if task.get("status") in states else None

    return await eventually(f"task {task_id} in {states}", look, within_s)


def mails() -> list[Path]:
    return sorted((STACK / "mail").glob("*.eml"))
