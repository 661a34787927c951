"""The TLS that the servers of the matrix bring themselves; each of them asks for a client certificate."""

import os
from pathlib import Path

import asyncpg
import pytest
from aio_pika.abc import AbstractConnection
from yarl import URL

from libs.common.topology import CREATE, SCHEDULER_TASKS
from tests.integration.rig import publishing, take
from tests.integration.test_tls import CLIENTS, each_server
from tests.integration.tls import PARAMETERS

pytestmark = pytest.mark.skipif(
    "TEST_TLS_RABBITMQ_URL" not in os.environ, reason="needs the matrix's servers: python -m tests.matrix"
)


def url_of(server: str) -> URL:
    return URL(os.environ[f"TEST_TLS_{server.upper()}_URL"])


@pytest.mark.usefixtures("amqp_url")  # a link is up when its queues are there
@each_server
async def test_its_certificate_and_ours_are_accepted(server: str) -> None:
    async with CLIENTS[server](str(url_of(server))) as ask:
        assert await ask() is None


@each_server
async def test_a_ca_that_did_not_sign_its_certificate_is_refused(server: str) -> None:
    url = url_of(server)
    parameter = PARAMETERS[url.scheme][0]
    other = Path(url.query[parameter]).with_name("other.pem")
    async with CLIENTS[server](str(url.update_query({parameter: str(other)}))) as ask:
        assert "name the CA that signed it" in str(await ask())


@pytest.mark.parametrize("server", ["rabbitmq", "redis"])
async def test_it_lets_nobody_in_without_a_client_certificate(server: str) -> None:
    url = url_of(server)
    _, certificate, key = PARAMETERS[url.scheme]
    async with CLIENTS[server](str(url.without_query_params(certificate, key))) as ask:
        assert await ask() is not None


async def test_postgres_sees_the_client_certificate() -> None:
    connection = await asyncpg.connect(str(url_of("postgres")))
    seen = await connection.fetchrow("SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()
    assert seen is not None
    assert seen["ssl"]
    assert "CN=carillon" in seen["client_dn"]


async def test_a_message_is_published_over_it(amqp: AbstractConnection) -> None:
    async with publishing(str(url_of("rabbitmq"))) as publisher:
        await publisher.publish(CREATE, b"7")
    assert (await take(amqp, SCHEDULER_TASKS)).body == b"[7]"
