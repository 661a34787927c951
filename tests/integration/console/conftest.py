"""The console on a real Postgres and a real Redis; the broker and the other services are fakes that a test looks at."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import BaseTestServer, TestClient, TestServer

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.postgres import Postgres, postgres_pool
from libs.common.redis import opened_redis
from libs.common.settings import load
from services.ingest.auth import Keys
from services.ingest.commands import Commands
from services.ingest.console.page import ROOT, Role
from services.ingest.console.wiring import Console, Parts
from services.ingest.creation import this_millisecond
from services.ingest.http import build_app
from services.ingest.settings import IngestSettings
from tests.http.conftest import FakeBroker
from tests.http.services import FakeServices
from tests.integration.console import task_events

Client = TestClient[Any, Any]

KEY = "a-key-of-enough-length"
CSRF = re.compile(r'name="csrf" value="([^"]+)"')
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@dataclass
class Answer:
    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def location(self) -> str:
        return self.headers.get("Location", "")


@dataclass
class Visit:
    """A browser without JavaScript: it keeps cookies, and follows nothing by itself."""

    client: Client
    csrf: str
    user_id: UUID | None

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """`path` is below /console."""
        url = ROOT if path == "/" else ROOT + path
        async with self.client.get(url, allow_redirects=False, headers=headers) as response:
            return await _answer(response)

    async def post(
        self,
        path: str,
        fields: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        *,
        headers: Mapping[str, str] = SAME_ORIGIN,
        csrf: str | None = None,
    ) -> Answer:
        """A form of our own page, with its token, unless said otherwise."""
        pairs = [*(fields.items() if isinstance(fields, Mapping) else fields), ("csrf", csrf or self.csrf)]
        async with self.client.post(ROOT + path, data=pairs, headers=headers, allow_redirects=False) as response:
            return await _answer(response)

    async def follow(self, answer: Answer) -> Answer:
        """Where a form led to, which tells what came of it."""
        assert answer.status == 303, answer.text
        return await self.get(answer.location.removeprefix(ROOT) or "/")


@dataclass
class Rig:
    """`services` answers the commands of the console; `broker` has what it published."""

    app: Console
    server: BaseTestServer
    parts: Parts
    broker: FakeBroker
    services: FakeServices
    clients: list[Client] = field(default_factory=list)

    @property
    def postgres(self) -> Postgres:
        return self.parts.postgres

    async def user(self, role: Role, name: str, projects: Sequence[str] = ()) -> UUID:
        id_ = new_id()
        async with self.postgres.acquire() as connection:
            await connection.execute(
                "INSERT INTO console_user (id, name, role, projects, created_at, changed_at)"
                " VALUES ($1, $2, $3, $4, now(), now())",
                id_,
                name,
                role,
                list(projects),
            )
        return id_

    async def visit(self) -> Visit:
        """Somebody who is not logged in."""
        client: Client = TestClient(self.server, cookie_jar=CookieJar(unsafe=True))
        self.clients.append(client)
        return Visit(client, "", None)

    async def login(self, role: Role = "operator", name: str | None = None, projects: Sequence[str] = ()) -> Visit:
        """A user of that role, logged in."""
        visit = await self.visit()
        visit.user_id = await self.user(role, name or f"{role}-{new_id().hex[-6:]}", projects)
        guard = self.app.guard
        token = await guard.sessions.begin(visit.user_id, 1)
        visit.client.session.cookie_jar.update_cookies({guard.cookie.name: token}, visit.client.make_url("/"))
        session = await guard.sessions.find(token)
        assert session is not None
        visit.csrf = session.csrf
        return visit

    async def audit(self) -> list[dict[str, Any]]:
        async with self.postgres.acquire() as connection:
            return [dict(record) for record in await connection.fetch("SELECT * FROM audit ORDER BY id")]


@pytest.fixture(autouse=True)
def tasks_of_this_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks a test tells of are due relative to its own start, however long the run before it took."""
    monkeypatch.setattr(task_events, "NOW", this_millisecond(SystemClock().now()))


@pytest.fixture
async def postgres(migrated_postgres_url: str) -> AsyncIterator[Postgres]:
    async with postgres_pool(
        migrated_postgres_url, role="carillon_ingest", schema="ingest", application_name="test"
    ) as opened:
        yield opened


@pytest.fixture
async def console(postgres: Postgres, migrated_postgres_url: str, redis_url: str) -> AsyncIterator[Rig]:
    environ = {
        "CARILLON_AMQP_URL": "amqp://nobody@127.0.0.1:1",
        "CARILLON_POSTGRES_URL": migrated_postgres_url,
        "CARILLON_REDIS_URL": redis_url,
        "CARILLON_BOOTSTRAP_KEY": KEY,
        "CARILLON_PUBLIC_URL": "http://127.0.0.1",
        "CARILLON_SIGNING_MASTER_KEY": "q0C1rUVSTxr7Vn9vFj3Jw2mP4aYkLd8eZbXh6NsTgIo=",
    }
    settings = load(IngestSettings, environ)
    broker, services, clock = FakeBroker(), FakeServices(), SystemClock()
    async with opened_redis(redis_url) as redis:
        parts = Parts(
            postgres=postgres,
            redis=redis,
            publisher=broker,  # type: ignore[arg-type]  # takes all and confirms it
            commands=Commands(services),
            clock=clock,
            settings=settings,
        )
        made = Console(parts)
        app = build_app([], Keys(KEY), version="1.2.3", body_bytes_max=settings.body_bytes_max, console=made)
        async with TestServer(app) as server:
            rig = Rig(made, server, parts, broker, services)
            yield rig
            for client in rig.clients:
                await client.close()


async def _answer(response: ClientResponse) -> Answer:
    return Answer(response.status, await response.text(), response.headers)
