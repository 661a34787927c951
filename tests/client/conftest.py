"""A real HTTP server that answers what a test wrote down, and time that passes when somebody sleeps."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from aiohttp import web
from carillon import Client

KEY = "k" * 40
TASK: dict[str, Any] = {"id": "019a-1", "status": "scheduled", "url": "https://example.com/hook"}


@dataclass(frozen=True)
class Answer:
    """A `body` that is a function is asked at the time. `how` "cut" hangs up instead, "half" in the middle of the body,
    "silent" says nothing."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    how: Literal["whole", "cut", "half", "silent"] = "whole"

    def bytes(self) -> bytes:
        body = self.body() if callable(self.body) else self.body
        if isinstance(body, bytes):
            return body
        return b"" if body is None else json.dumps(body).encode()


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """Answers from `answers`, in order; what comes after them is a failure of the test."""

    url: str = ""
    answers: deque[Answer] = field(default_factory=deque)
    seen: list[Seen] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def will(self, *answers: Answer) -> None:
        self.answers.extend(answers)

    @property
    def only(self) -> Seen:
        [seen] = self.seen
        return seen

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append(Seen(request.method, request.raw_path, headers, await request.read()))
        self.asked.set()
        answer = self.answers.popleft() if self.answers else Answer(599, {"code": "no_answer_left", "detail": "?"})
        assert request.transport is not None
        match answer.how:
            case "cut":
                request.transport.abort()
            case "silent":
                await self.released.wait()
            case "half":
                half = web.StreamResponse(headers={"Content-Length": "1000"})
                await half.prepare(request)
                await half.write(b'{"id":')
                request.transport.abort()
        return web.Response(status=answer.status, body=answer.bytes(), headers=answer.headers)


def problem(status: int, code: str, detail: str = "Mend it.", *, errors: Any = (), **headers: str) -> Answer:
    body = {
        "type": "about:blank", "title": "No", "status": status, "code": code, "detail": detail,
        "instance": "/v1/tasks", "request_id": "req-1", "errors": list(errors), "unheard_of": 1,
    }  # fmt: skip
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, {"Content-Type": "application/problem+json", **named})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    server.released.set()
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with Client(server.url, KEY, timeout_s=60, answer_timeout_s=5) as client:
        yield client


@dataclass
class Time:
    """What the client's repeats go by: it stands still but for sleeping, which takes no time."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr("carillon.transport.sleep", time.sleep)
    monkeypatch.setattr("carillon.transport.monotonic", time.monotonic)
    return time


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Only these CARILLON_* variables of the client: `environment(CARILLON_URL="...")`."""

    def only(**variables: str) -> None:
        for name in ("CARILLON_URL", "CARILLON_KEY", "CARILLON_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    only()
    return only
