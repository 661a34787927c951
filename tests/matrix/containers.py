"""RabbitMQ, PostgreSQL and Redis as containers of one run: plain and TLS ports on loopback, our broker settings."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import asyncpg
from redis.asyncio import Redis

from deploy.local import readiness
from tests.compose.docker import CommandFailed, docker
from tests.integration.tls import Authority, secure

BROKER_CONFIG = Path(__file__).parents[2] / "deploy" / "rabbitmq"
READY_WITHIN_S = 90.0
PASSWORD = "matrix"
NO_BUSY_WAITING = "+sbwt none +sbwtdcpu none +sbwtdio none"
RABBITMQ_TLS = """\
listeners.ssl.default = 5671
ssl_options.cacertfile = /tls/ca.pem
ssl_options.certfile = /tls/server.pem
ssl_options.keyfile = /tls/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
"""
# Postgres wants the key to be its own and nobody else's.
POSTGRES = (
    "install -o postgres -m 600 /tls/server.key /tmp/server.key && exec docker-entrypoint.sh postgres -c ssl=on"
    " -c ssl_cert_file=/tls/server.pem -c ssl_key_file=/tmp/server.key -c ssl_ca_file=/tls/ca.pem"
    " -c max_connections=200"
)
REDIS = (
    "--tls-port 6380 --tls-cert-file /tls/server.pem --tls-key-file /tls/server.key --tls-ca-cert-file /tls/ca.pem"
    " --tls-auth-clients yes"
)
SERVERS = ("rabbitmq", "postgres", "redis")


@dataclass(frozen=True)
class Servers:
    """Where they are, and what each says of itself."""

    plain: dict[str, str]
    secured: dict[str, str]
    broker_container: str
    versions: dict[str, str]


@contextmanager
def running(images: dict[str, str], prefix: str, folder: Path) -> Iterator[Servers]:
    """Started from nothing, removed after the block. Raises: CommandFailed."""
    names = {server: f"{prefix}-{server}" for server in SERVERS}
    authority = Authority(folder)
    _write_certificates(authority, folder)
    ports = _free_ports(2 * len(SERVERS))
    try:
        _start(images, names, ports, folder)
        plain = {
            "rabbitmq": f"amqp://guest:guest@127.0.0.1:{ports[0]}/",
            "postgres": f"postgresql://carillon:{PASSWORD}@127.0.0.1:{ports[2]}/carillon?sslmode=disable",
            "redis": f"redis://127.0.0.1:{ports[4]}/0",
        }
        client = (authority.client, authority.client_key)
        secured = {
            server: secure(plain[server], port, authority.ca, client)
            for server, port in zip(SERVERS, ports[1::2], strict=True)
        }
        asyncio.run(_ready(plain))
        yield Servers(plain, secured, names["rabbitmq"], asyncio.run(_versions(plain)))
    finally:
        for name in names.values():
            docker("rm", "--force", "--volumes", name)


def _start(images: dict[str, str], names: dict[str, str], ports: list[int], folder: Path) -> None:
    (folder / "20-tls.conf").write_text(RABBITMQ_TLS)
    tls = ("--volume", f"{folder}:/tls:ro")
    docker(
        *_run(names["rabbitmq"], {ports[0]: 5672, ports[1]: 5671}), "--hostname", "rabbitmq", *tls,
        "--volume", f"{BROKER_CONFIG}/rabbitmq.conf:/etc/rabbitmq/rabbitmq.conf:ro",
        "--volume", f"{BROKER_CONFIG}/advanced.config:/etc/rabbitmq/advanced.config:ro",
        "--volume", f"{folder}/20-tls.conf:/etc/rabbitmq/conf.d/20-tls.conf:ro",
        "--env", f"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={NO_BUSY_WAITING}", images["rabbitmq"],
    )  # fmt: skip
    docker(
        *_run(names["postgres"], {ports[2]: 5432, ports[3]: 5432}), *tls,
        "--env", "POSTGRES_USER=carillon", "--env", f"POSTGRES_PASSWORD={PASSWORD}",
        "--entrypoint", "sh", images["postgres"], "-c", POSTGRES,
    )  # fmt: skip
    docker(*_run(names["redis"], {ports[4]: 6379, ports[5]: 6380}), *tls, images["redis"], *REDIS.split())


def _run(name: str, ports: dict[int, int]) -> list[str]:
    published = (f"127.0.0.1:{host}:{inside}" for host, inside in ports.items())
    return ["run", "--detach", "--name", name, *(word for port in published for word in ("--publish", port))]


def _write_certificates(authority: Authority, folder: Path) -> None:
    certificate = authority.certificate()
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    for path in (folder, folder / "server.key"):  # for the users that the servers run as; it is thrown away
        path.chmod(0o755)


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


async def _ready(urls: dict[str, str]) -> None:
    questions = {
        "rabbitmq": readiness.rabbitmq(urls["rabbitmq"]),
        "postgres": readiness.postgres(urls["postgres"]),
        "redis": readiness.valkey(urls["redis"]),
    }
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        missing = {name: why for name, ask in questions.items() if (why := await ask()) is not None}
        if not missing:
            return
        if time.monotonic() > deadline:
            raise CommandFailed(f"not ready within {READY_WITHIN_S:g} s: {missing}")
        await asyncio.sleep(0.2)


async def _versions(urls: dict[str, str]) -> dict[str, str]:
    async with await aio_pika.connect(urls["rabbitmq"]) as connection:
        properties = connection.transport.connection.server_properties if connection.transport else {}
    database = await asyncpg.connect(urls["postgres"])
    redis = Redis.from_url(urls["redis"])
    try:
        return {
            "RabbitMQ": _text(properties["version"]),
            "PostgreSQL": str(await database.fetchval("SHOW server_version")).split()[0],
            "Redis": str((await redis.info("server"))["redis_version"]),
        }
    finally:
        await database.close()
        await redis.aclose()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
