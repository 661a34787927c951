"""A mail server that keeps what it gets, and a mailer without its process: the parts wired as `__main__` does."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default

from aio_pika.abc import AbstractConnection
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from libs.common import topology
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import DigestPage, FailedTask, Notice, encode
from libs.common.digest.render import Letterhead
from libs.common.intake import Intake, decoder
from libs.common.publisher import Publisher
from services.mailer.collect import FallbackQueue
from services.mailer.outbox import Outbox, Send
from services.mailer.smtp import SmtpServer

LETTERHEAD = Letterhead("carillon@example.org", ("ops@example.org",))
RUNG_MS = 200


async def until(what: str, is_so: Callable[[], Awaitable[bool]], within_s: float = 10) -> None:
    """Wait for a predicate that only the broker can answer, or say what was waited for."""
    deadline = asyncio.get_running_loop().time() + within_s
    while not await is_so():
        assert asyncio.get_running_loop().time() < deadline, f"waited {within_s} s for {what}"
        await asyncio.sleep(0.02)


@dataclass
class Mailbox:
    """An SMTP server that can go away and come back on the same port, and that can be made to misbehave.

    `refusals` are answers to RCPT by address; `password`, once set, is asked for; `before_answer` runs when a mail is
    kept and its 250 not yet said, and may raise to hang up instead.
    """

    port: int = 0
    answer: str = "250 kept"
    refusals: dict[str, str] = field(default_factory=dict)
    password: str | None = None
    logins: int = 0
    before_answer: Callable[[], Awaitable[None]] | None = None
    mails: list[bytes] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    _server: asyncio.Server | None = None

    @property
    def server(self) -> SmtpServer:
        login = "" if self.password is None else "me:secret@"
        return SmtpServer.from_url(f"smtp://{login}127.0.0.1:{self.port}")

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.mails.append(envelope.content)
            self.recipients.append(list(envelope.rcpt_tos))
        if self.before_answer is not None:
            try:
                await self.before_answer()
            except ConnectionResetError:
                assert isinstance(server.transport, asyncio.Transport)
                server.transport.abort()
        return self.answer

    def _login(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins += 1
        is_right = self.password is not None and data.password == self.password.encode()
        return AuthResult(success=is_right, handled=False)

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, loop=loop, authenticator=self._login, auth_require_tls=False), "127.0.0.1", self.port
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def has(self, count: int, within_s: float = 10) -> None:
        async def is_so() -> bool:
            return len(self.mails) >= count

        await until(f"{count} mails, {len(self.mails)} came", is_so, within_s)
        assert len(self.mails) == count

    def ids(self) -> list[str]:
        """The Message-ID of each mail, in the order in which they came."""
        return [str(message_from_bytes(mail, policy=default)["Message-ID"]) for mail in self.mails]


@dataclass
class Mailer:
    fallback: FallbackQueue
    publisher: Publisher
    outbox: asyncio.Task[None]

    async def puts(self, *entries: FailedTask | Notice) -> None:
        """As dispatcher and ingest do: packed, confirmed."""
        failures = await self.publisher.publish_many(topology.FALLBACK_ENTRY, [encode(entry) for entry in entries])
        assert not any(failures)

    async def waits(self, messages_min: int = 1) -> int:
        async def is_so() -> bool:
            return await self.fallback.waiting() >= messages_min

        await until(f"{messages_min} messages in the fallback queue", is_so)
        return await self.fallback.waiting()

    async def collects(self, messages_max: int | None = None) -> int:
        """Gives the number of pages."""
        return (await self.fallback.collect(messages_max or await self.waits(), asyncio.Event())).pages


@asynccontextmanager
async def mailer(
    amqp_url: str,
    send: Send,
    *,
    rungs_ms: Sequence[int] = (RUNG_MS,),
    letterhead: Letterhead = LETTERHEAD,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Mailer]:
    publishing = Link(amqp_url, "test publish", topology.topology())
    consuming = Link(amqp_url, "test consume", topology.topology())
    publisher = Publisher()
    fallback = FallbackQueue(publisher, SystemClock())
    outbox = Outbox(send, publisher, letterhead, rungs_ms=rungs_ms, monotonic=monotonic)
    pages = Intake(topology.MAILER_OUTBOX, decoder(DigestPage), publisher, prefetch=1)
    publishing.join(publisher)
    consuming.join(fallback)
    consuming.join(pages)
    async with AsyncExitStack() as opened:
        for link in (publishing, consuming):
            await opened.enter_async_context(link)
            await link.up()
        stopping = asyncio.Event()
        running = asyncio.create_task(ItemConsumer(pages, outbox.handle, asyncio.Semaphore(1)).run(stopping))
        yield Mailer(fallback, publisher, running)
        stopping.set()
        await asyncio.wait({running})


async def declare_short_rung(connection: AbstractConnection) -> None:
    """A rung of `RUNG_MS`, like the first of the real ones but for its name and time."""
    [real] = [queue for queue in topology.topology().queues if queue.name == "mailer.retry.30000"]
    async with connection.channel() as channel:
        queue = await channel.declare_queue(
            f"mailer.retry.{RUNG_MS}", durable=True, arguments={**real.arguments, "x-message-ttl": RUNG_MS}
        )
        await queue.bind("carillon.mailer-retry", str(RUNG_MS))
        await queue.purge()
