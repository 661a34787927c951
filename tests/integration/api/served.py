"""The real application: one process of each service on real servers, and keys of projects."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import aio_pika
import asyncpg
from redis import Redis
from yarl import URL

from libs.common.declaration import declare
from libs.common.topology import SCHEDULER_TASKS, topology
from services.ingest.auth import Scope
from tests.conftest import RETRY_SCHEDULE_S, ROOT

SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")
READY_WITHIN_S = 30.0
SCOPES: tuple[str, ...] = get_args(Scope)
BOOTSTRAP_KEY = "the-bootstrap-key-of-these-tests"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """`postgres_url` is the database of these processes alone."""

    url: str
    postgres_url: str
    folder: Path
    closed_port: int
    _keys: dict[str, str] = field(default_factory=dict)

    def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`body`: bytes as they are, anything else as JSON."""
        given = dict(headers or {})
        if key is not None:
            given["Authorization"] = f"Bearer {key}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers=given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    def new_key(self, project: str, scopes: Sequence[str] = SCOPES, **fields: Any) -> tuple[str, str]:
        """(its text, its id)"""
        body = {"name": "test", "project": project, "scopes": list(scopes), **fields}
        answer = self.ask("POST", "/v1/keys", key=BOOTSTRAP_KEY, body=body)
        assert answer.status == 201, answer.body
        return answer.json["key"], answer.json["id"]

    def key(self, project: str) -> str:
        """One that may do everything in it."""
        if project not in self._keys:
            self._keys[project], _id = self.new_key(project)
        return self._keys[project]

    def park(self, project: str, message_id: str) -> str:
        """A message of the project that nobody could read."""
        asyncio.run(_park(self.postgres_url, project, message_id))
        return message_id

    def log(self, service: str = "ingest") -> str:
        return (self.folder / f"{service}.log").read_text()


def eventually(what: str, is_so: Callable[[], object], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(0.05)


@contextmanager
def served_by(servers: Mapping[str, str], template: str, folder: Path) -> Iterator[Served]:
    http_port, closed_port = free_port(), free_port()
    database = f"test_{uuid4().hex[:12]}"
    postgres_url = str(URL(servers["CARILLON_POSTGRES_URL"]).with_path(f"/{database}", keep_query=True))
    asyncio.run(_prepare(servers, template, database))
    environ = {
        "PATH": os.environ["PATH"],
        "CARILLON_AMQP_URL": servers["CARILLON_AMQP_URL"],
        "CARILLON_POSTGRES_URL": postgres_url,
        "CARILLON_REDIS_URL": servers["CARILLON_REDIS_URL"],
        "CARILLON_SMTP_URL": servers["CARILLON_SMTP_URL"],
        "CARILLON_DIGEST_TO": "ops@carillon.local",
        "CARILLON_DIGEST_FROM": "carillon@carillon.local",
        "CARILLON_BOOTSTRAP_KEY": BOOTSTRAP_KEY,
        "CARILLON_SIGNING_MASTER_KEY": "0123456789-a-master-key-of-these-tests",
        "CARILLON_ALLOW_NETWORKS": "127.0.0.0/8",
        "CARILLON_RETRY_SCHEDULE_S": ",".join(map(str, RETRY_SCHEDULE_S)),
        "CARILLON_HOST": "127.0.0.1",
        "CARILLON_ADMIN_HOST": "127.0.0.1",
        "CARILLON_ADMIN_PORT": "0",
        "CARILLON_PORT": str(http_port),
    }
    try:
        with ExitStack() as running:
            for service in SERVICES:
                running.enter_context(_process(service, environ, folder))
            served = Served(f"http://127.0.0.1:{http_port}", postgres_url, folder, closed_port)
            _wait_until_ready(served)
            yield served
    finally:
        asyncio.run(_drop(servers, database))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _process(service: str, environ: Mapping[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{service}.log").open("wb") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", f"services.{service}"), cwd=ROOT, env=environ, stdout=log, stderr=log
        )
    try:
        yield
        assert process.poll() is None, f"{service} has ended: {(folder / f'{service}.log').read_text()[-3000:]}"
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(served: Served) -> None:
    """Ingest answers, and all have their links up."""

    def are_up() -> bool:
        return all(served.log(service).count("connection.opened") >= 2 for service in SERVICES) and _answers(served)

    eventually("all services", are_up, READY_WITHIN_S)


def _answers(served: Served) -> bool:
    try:
        return served.ask("GET", "/").status == 200
    except OSError:
        return False


async def _prepare(servers: Mapping[str, str], template: str, database: str) -> None:
    """An empty database, empty queues, an empty Redis."""
    server = await asyncpg.connect(servers["CARILLON_POSTGRES_URL"])
    await server.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
    await server.close()
    queues = topology(RETRY_SCHEDULE_S)
    async with await aio_pika.connect(servers["CARILLON_AMQP_URL"]) as connection:
        await declare(connection, queues)
        channel = await connection.channel()
        for queue in queues.queues:
            await (await channel.get_queue(queue.name, ensure=False)).purge()
    with Redis.from_url(servers["CARILLON_REDIS_URL"]) as redis:
        redis.flushdb()


async def _park(postgres_url: str, project: str, message_id: str) -> None:
    postgres = await asyncpg.connect(postgres_url)
    await postgres.execute(
        "INSERT INTO ingest.parked (message_id, parked_at, origin, cause, crashes, headers, body, project)"
        " VALUES ($1, now(), $2, 'unreadable', 0, '{}', 'nonsense', $3)",
        message_id,
        SCHEDULER_TASKS,
        project,
    )
    await postgres.close()


async def _drop(servers: Mapping[str, str], database: str) -> None:
    server = await asyncpg.connect(servers["CARILLON_POSTGRES_URL"])
    await server.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
    await server.close()
