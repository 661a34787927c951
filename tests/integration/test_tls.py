"""RabbitMQ, Postgres, Redis and SMTP over TLS with a private CA: told by the URL alone, verified, waited for."""

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aio_pika.abc import AbstractConnection
from aiohttp import web
from aiosmtpd.smtp import SMTP
from structlog.testing import capture_logs

from deploy import setup
from deploy.local.private import read_env_file
from libs.common.lifecycle import Fatal
from libs.common.postgres import PostgresAway, postgres_pool
from libs.common.redis import RedisAway, ping, redis_client
from libs.common.topology import CREATE, SCHEDULER_TASKS
from services.mailer.smtp import MailAway, SmtpServer
from tests.conftest import PORT_OFFSET, RETRY_SCHEDULE_S, ROOT, STACK
from tests.integration.mailer.rig import Mailbox
from tests.integration.mailer.test_outbox import a_mail
from tests.integration.rig import a_link, publishing, take, until
from tests.integration.tls import HOST, OTHER_NAME, Authority, TlsFront, secure

SERVERS = ("rabbitmq", "postgres", "redis")
Ask = Callable[[], Awaitable[str | None]]
"""None when the server has let us in, else what the log says."""


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def urls(amqp_url: str, postgres_url: str, redis_url: str) -> dict[str, str]:
    return {"rabbitmq": amqp_url, "postgres": postgres_url, "redis": redis_url}


@asynccontextmanager
async def rabbitmq(url: str) -> AsyncIterator[Ask]:
    link = a_link(url, "over TLS")
    with capture_logs() as logs:
        async with link:
            said = 0

            async def ask() -> str | None:
                nonlocal said
                await until("an answer", lambda: link_is_up() or len(failures()) > said)
                said = len(failures())
                return None if link_is_up() else failures()[-1]

            def link_is_up() -> bool:
                return any(entry["event"] == "connection.opened" for entry in logs)

            def failures() -> list[str]:
                return [entry["reason"] for entry in logs if entry["event"] == "connection.failed"]

            yield ask


@asynccontextmanager
async def postgres(url: str) -> AsyncIterator[Ask]:
    async with postgres_pool(url, role="carillon", schema="public", application_name="test") as pool:

        async def ask() -> str | None:
            try:
                await pool.ping()
            except PostgresAway as error:
                return str(error)
            return None

        yield ask


@asynccontextmanager
async def redis(url: str) -> AsyncIterator[Ask]:
    client = redis_client(url)

    async def ask() -> str | None:
        try:
            await ping(client)
        except RedisAway as error:
            return str(error)
        return None

    yield ask
    await client.aclose()


CLIENTS: dict[str, Callable[[str], AbstractAsyncContextManager[Ask]]] = {
    "rabbitmq": rabbitmq,
    "postgres": postgres,
    "redis": redis,
}
"""As the services make them. None of them raises: a certificate is no reason to end."""


class Refusal(NamedTuple):
    host: str
    is_expired: bool
    has_other_ca: bool
    reason: str
    remedy: str


REFUSALS = {
    "a CA that did not sign it": Refusal(HOST, False, True, "local issuer", "name the CA"),
    "another name of the server": Refusal(OTHER_NAME, False, False, f"not valid for '{OTHER_NAME}'", "name the server"),
    "an expired certificate": Refusal(HOST, True, False, "expired", "renew it on the server"),
}
each_server = pytest.mark.parametrize("server", SERVERS)
each_refusal = pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())


@each_server
@each_refusal
async def test_what_does_not_verify_is_refused_and_told_with_the_remedy(
    server: str, refusal: Refusal, urls: dict[str, str], authority: Authority
) -> None:
    async with TlsFront(urls[server], authority.server(is_expired=refusal.is_expired)) as front:
        ca = authority.other if refusal.has_other_ca else authority.ca
        async with CLIENTS[server](secure(urls[server], front.port, ca, host=refusal.host)) as ask:
            said = await ask()
    assert said is not None
    assert f"{refusal.host}:{front.port}" in said
    assert refusal.reason in said
    assert refusal.remedy in said


@each_server
async def test_a_renewed_certificate_and_a_replaced_ca_are_taken_up_without_a_restart(
    server: str, urls: dict[str, str], authority: Authority, tmp_path: Path
) -> None:
    mounted = tmp_path / "ca.pem"
    mounted.write_bytes(authority.other.read_bytes())
    async with TlsFront(urls[server], authority.server(is_expired=True)) as front:
        async with CLIENTS[server](secure(urls[server], front.port, mounted)) as ask:
            assert "local issuer" in str(await ask())
            mounted.write_bytes(authority.ca.read_bytes())
            await until("the new CA to be read", lambda: says(ask, "expired"))
            front.context = authority.server()
            await until("the new certificate to be trusted", lambda: says(ask, None))


async def says(ask: Ask, what: str | None) -> bool:
    said = await ask()
    return said is None if what is None else said is not None and what in said


@each_server
async def test_a_client_certificate_is_shown_when_the_url_names_one(
    server: str, urls: dict[str, str], authority: Authority
) -> None:
    async with TlsFront(urls[server], authority.server(asks_for_client=True)) as front:
        without = secure(urls[server], front.port, authority.ca)
        async with CLIENTS[server](without) as ask:
            assert await ask() is not None
        client = (authority.client, authority.client_key)
        async with CLIENTS[server](secure(urls[server], front.port, authority.ca, client)) as ask:
            assert await ask() is None


@each_server
async def test_a_ca_file_that_is_not_there_is_waited_for(
    server: str, urls: dict[str, str], authority: Authority, tmp_path: Path
) -> None:
    mounted = tmp_path / "late.pem"
    async with TlsFront(urls[server], authority.server()) as front:
        async with CLIENTS[server](secure(urls[server], front.port, mounted)) as ask:
            assert "No such file" in str(await ask())
            mounted.write_bytes(authority.ca.read_bytes())
            await until("the file to be read", lambda: says(ask, None))


async def test_a_message_is_published_and_taken_over_tls(
    amqp_url: str, amqp: AbstractConnection, authority: Authority
) -> None:
    async with TlsFront(amqp_url, authority.server()) as front:
        async with publishing(secure(amqp_url, front.port, authority.ca)) as publisher:
            await publisher.publish(CREATE, b"7")
    assert (await take(amqp, SCHEDULER_TASKS)).body == b"[7]"


async def test_a_url_that_asks_to_verify_and_names_no_ca_ends_the_process(postgres_url: str) -> None:
    url = postgres_url.replace("sslmode=disable", "sslmode=verify-full")
    with pytest.raises(Fatal, match="sslrootcert"):
        async with postgres(url) as ask:
            await ask()


# --- the set-up step


@asynccontextmanager
async def fronts(urls: dict[str, str], authority: Authority) -> AsyncIterator[dict[str, str]]:
    """All servers behind TLS: their secure URLs."""
    async with AsyncExitStack() as opened:
        made = {name: await opened.enter_async_context(TlsFront(url, authority.server())) for name, url in urls.items()}
        yield {name: secure(urls[name], front.port, authority.ca) for name, front in made.items()}


async def test_the_set_up_step_works_over_tls(urls: dict[str, str], authority: Authority) -> None:
    async with fronts(urls, authority) as secured:
        environ = {
            "PATH": os.environ["PATH"],
            "CARILLON_AMQP_URL": secured["rabbitmq"],
            "CARILLON_POSTGRES_URL": secured["postgres"],
            "CARILLON_RETRY_SCHEDULE_S": ",".join(map(str, RETRY_SCHEDULE_S)),
        }
        code, said = await run_module("deploy.setup", environ)
    assert code == 0, said
    assert "topology.declared" in said


async def test_the_set_up_step_says_that_a_certificate_is_refused(
    urls: dict[str, str], authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "WAIT_S", 1)
    async with fronts(urls, authority) as secured:
        wrong = {name: url.replace(str(authority.ca), str(authority.other)) for name, url in secured.items()}
        with pytest.raises(Fatal, match=r"certificate is refused.*name the CA"):
            await setup.connect(wrong["rabbitmq"])
        [(schema, folder), *_] = setup.migrations()
        with pytest.raises(Fatal, match="certificate"):
            await asyncio.to_thread(setup.migrate, wrong["postgres"], schema, folder)


async def run_module(module: str, environ: dict[str, str], *words: str) -> tuple[int | None, str]:
    """(exit code, output), while this process goes on."""
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *words,
        cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await running.communicate()
    return running.returncode, output.decode()


# --- mail


@dataclass
class SecureMailbox(Mailbox):
    """The mail server's own TLS, from the first byte or by STARTTLS."""

    scheme: str = "smtps"
    context: ssl.SSLContext | None = None

    def url(self, ca: Path) -> str:
        return secure(f"{self.scheme}://{HOST}", self.port, ca)

    async def open(self) -> None:
        loop, is_upgraded = asyncio.get_running_loop(), self.scheme == "smtp+starttls"
        self._server = await loop.create_server(
            lambda: SMTP(
                self, loop=loop, tls_context=self.context if is_upgraded else None, require_starttls=is_upgraded
            ),
            OTHER_NAME, self.port, ssl=None if is_upgraded else self.context,
        )  # fmt: skip
        self.port = self._server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_a_mail_goes_over_tls_and_not_to_a_server_that_cannot_be_verified(
    scheme: str, authority: Authority
) -> None:
    mailbox = SecureMailbox(scheme=scheme, context=authority.server())
    await mailbox.open()
    try:
        await SmtpServer.from_url(mailbox.url(authority.ca)).send(a_mail(), ["ops@example.org"])
        assert len(mailbox.mails) == 1
        with pytest.raises(MailAway, match=r"certificate is refused.*name the CA"):
            await SmtpServer.from_url(mailbox.url(authority.other)).send(a_mail(), ["ops@example.org"])
    finally:
        await mailbox.close()
    assert len(mailbox.mails) == 1


# --- the whole


async def test_a_task_is_called_and_a_failure_mailed_with_every_link_over_tls(
    urls: dict[str, str], authority: Authority
) -> None:
    mailbox, called = SecureMailbox(context=authority.server()), []

    async def receive(request: web.Request) -> web.Response:
        called.append(request.path)
        return web.Response(status=410 if request.path == "/gone" else 200)

    app = web.Application()
    app.router.add_post("/{name}", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, OTHER_NAME, 0)
    await site.start()
    await mailbox.open()
    try:
        async with fronts(urls, authority) as secured, services(secured, mailbox.url(authority.ca)) as variables:
            for path in ("/works", "/gone"):
                await create(variables, f"http://{OTHER_NAME}:{runner.addresses[0][1]}{path}")
            await until("both calls", lambda: sorted(called) == ["/gone", "/works"], within_s=20)
            await mailbox.has(1)
    finally:
        await mailbox.close()
        await runner.cleanup()
    assert b"/gone" in mailbox.mails[0]


@asynccontextmanager
async def services(secured: dict[str, str], smtp_url: str) -> AsyncIterator[dict[str, str]]:
    """The four services, told nothing but their settings."""
    folder = STACK.with_name(f"{STACK.name}-tls")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")} | {
        "CARILLON_AMQP_URL": secured["rabbitmq"],
        "CARILLON_POSTGRES_URL": secured["postgres"],
        "CARILLON_REDIS_URL": secured["redis"],
        "CARILLON_SMTP_URL": smtp_url,
        "CARILLON_DIGEST_CRON": "*/2 * * * * *",
        "CARILLON_RETRY_SCHEDULE_S": ",".join(map(str, RETRY_SCHEDULE_S)),
    }
    where = ("--dir", str(folder))
    try:
        code, said = await run_module("deploy.local", environ, "up", *where, "--port-offset", str(PORT_OFFSET))
        assert code == 0, said
        yield read_env_file(folder / "env")
    finally:
        await run_module("deploy.local", environ, "down", *where)


async def create(variables: dict[str, str], url: str) -> None:
    headers = {"Authorization": f"Bearer {variables['CARILLON_API_KEY']}"}
    async with (
        aiohttp.ClientSession(variables["CARILLON_URL"], headers=headers) as api,
        api.post("/v1/tasks", json={"url": url}) as answer,
    ):
        assert answer.status == 201, await answer.text()
