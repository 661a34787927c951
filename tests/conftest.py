"""Real servers for the tests: a private stack under `.local/test`, started once a session and stopped after it.

A server that cannot be started skips its tests at home and fails them where `CI=true`. TEST_AMQP_URL,
TEST_POSTGRES_URL and TEST_REDIS_URL take servers from outside in their place (`tests/matrix`); TEST_BROKER_CONTAINER
names the container that such a broker runs in.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import uuid4

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractConnection
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis
from yarl import URL

from deploy.local.private import read_env_file
from deploy.setup import migrate, migrations
from libs.common.declaration import declare
from libs.common.topology import Topology, topology
from tests.brokerctl import broker_pid, in_stack

ROOT = Path(__file__).parent.parent
# Elsewhere, for a second checkout's tests at the same time: TEST_STACK_DIR and TEST_PORT_OFFSET.
STACK = Path(os.environ.get("TEST_STACK_DIR", ROOT / ".local" / "test"))
PORT_OFFSET = int(os.environ.get("TEST_PORT_OFFSET", "1000"))
OUTSIDE = {f"CARILLON_{name}": os.environ.get(f"TEST_{name}", "") for name in ("AMQP_URL", "POSTGRES_URL", "REDIS_URL")}
BROKER_CONTAINER = os.environ.get("TEST_BROKER_CONTAINER", "")
# Short rungs, so that a test can wait for one.
RETRY_SCHEDULE_S = (0.2, 0.5, 5.0)

# An example that the machine holds up for 200 ms, or drawing one for a second, would fail its test.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    """The stack's own variables: CARILLON_AMQP_URL, CARILLON_POSTGRES_URL, CARILLON_REDIS_URL, CARILLON_SMTP_URL."""
    with _alone():
        yield from _started()


@contextmanager
def _alone() -> Iterator[None]:
    """Two sessions on one broker would purge each other's queues: the second waits."""
    STACK.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{STACK}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _started() -> Iterator[dict[str, str]]:
    stack = [sys.executable, "-m", "deploy.local"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")} | OUTSIDE
    fresh_folder(STACK, plain)
    up = subprocess.run(
        [*stack, "up", "--servers-only", "--dir", STACK, "--port-offset", str(PORT_OFFSET)],
        cwd=ROOT, env=plain, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if up.returncode != 0:
        reason = f"no servers to test with: {(up.stdout + up.stderr)[-2000:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield read_env_file(STACK / "env")
    finally:
        subprocess.run([*stack, "down", "--dir", STACK], cwd=ROOT, env=plain, check=False, stdout=subprocess.DEVNULL)


@pytest.fixture
def test_topology() -> Topology:
    return topology(RETRY_SCHEDULE_S)


@pytest.fixture
async def amqp_url(servers: dict[str, str], test_topology: Topology) -> str:
    """A broker with the whole topology, every queue empty, rungs of 0.2, 0.5 and 5 s."""
    url = servers["CARILLON_AMQP_URL"]
    async with await aio_pika.connect(url) as connection:
        await declare(connection, test_topology)
        channel = await connection.channel()
        for queue in reversed(test_topology.queues):  # rungs before what they lead to
            await (await channel.get_queue(queue.name, ensure=False)).purge()
    return url


@pytest.fixture
async def amqp(amqp_url: str) -> AsyncIterator[AbstractConnection]:
    """A connection of the test's own, to look at the broker with."""
    async with await aio_pika.connect(amqp_url) as connection:
        yield connection


@pytest.fixture
async def postgres_url(servers: dict[str, str]) -> AsyncIterator[str]:
    """An empty database of the test's own."""
    async with fresh_database(servers["CARILLON_POSTGRES_URL"]) as url:
        yield url


@pytest.fixture(scope="session")
def _migrated_template(servers: dict[str, str]) -> str:
    """The name of a database with every service's migrations, to make copies of."""
    name = f"template_{uuid4().hex[:12]}"
    url = str(URL(servers["CARILLON_POSTGRES_URL"]).with_path(f"/{name}", keep_query=True))
    for schema, folder in migrations():
        migrate(url, schema, folder)
    return name


@pytest.fixture
async def migrated_postgres_url(servers: dict[str, str], _migrated_template: str) -> AsyncIterator[str]:
    """A database of the test's own with every service's tables."""
    async with fresh_database(servers["CARILLON_POSTGRES_URL"], _migrated_template) as url:
        yield url


@pytest.fixture
async def redis_url(servers: dict[str, str]) -> str:
    """An empty Redis."""
    url = servers["CARILLON_REDIS_URL"]
    client = Redis.from_url(url)
    await client.flushdb()
    await client.aclose()
    return url


@pytest.fixture
def rabbitmqctl(servers: dict[str, str]) -> Callable[..., str]:
    """Run rabbitmqctl against the test broker: `rabbitmqctl("set_vm_memory_high_watermark", "0.4")`."""
    command, environ = _in_container() if BROKER_CONTAINER else in_stack(STACK)

    def control(*words: str) -> str:
        done = subprocess.run([*command, *words], env=environ, capture_output=True, text=True, check=True)
        return done.stdout

    return control


@pytest.fixture
def kill_broker(servers: dict[str, str]) -> Callable[[], None]:
    """SIGKILL to the test broker, which then starts again."""

    def kill() -> None:
        if BROKER_CONTAINER:
            subprocess.run(["docker", "kill", BROKER_CONTAINER], capture_output=True, check=True)
            subprocess.run(["docker", "start", BROKER_CONTAINER], capture_output=True, check=True)
        else:
            os.kill(broker_pid(STACK), signal.SIGKILL)  # the supervisor starts it again

    return kill


def _in_container() -> tuple[list[str], dict[str, str]]:
    return ["docker", "exec", BROKER_CONTAINER, "rabbitmqctl"], dict(os.environ)


@asynccontextmanager
async def fresh_database(server_url: str, template: str = "template0") -> AsyncIterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    await _run(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    yield str(URL(server_url).with_path(f"/{name}", keep_query=True))
    await _run(server_url, f'DROP DATABASE "{name}" WITH (FORCE)')


async def _run(server_url: str, statement: str) -> None:
    """On a connection of its own: the server may be restarted between two of them."""
    server = await asyncpg.connect(server_url)
    try:
        await server.execute(statement)
    finally:
        await server.close()


def fresh_folder(stack: Path, environ: dict[str, str]) -> None:
    """End what a killed session left running, and begin without its data: queues of an older table would differ."""
    down = [sys.executable, "-m", "deploy.local", "down", "--dir", str(stack)]
    subprocess.run(down, cwd=ROOT, env=environ, check=False, stdout=subprocess.DEVNULL)
    shutil.rmtree(stack, ignore_errors=True)
