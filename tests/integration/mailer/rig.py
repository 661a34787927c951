"""A mail server that keeps what it gets, and a mailer without its process: the parts wired as `__main__` does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from aio_pika.abc import AbstractConnection
from aiosmtpd.smtp import SMTP, Envelope, Session

from libs.common import topology
from libs.common.clock import SystemClock
from libs.common.connection import Link
from libs.common.consumer import ItemConsumer
from libs.common.contracts import DigestPage, FailedTask, Notice, encode
from libs.common.intake import Intake, decoder
from libs.common.publisher import Publisher
from services.mailer.collect import FallbackQueue
from services.mailer.outbox import Outbox, Send
from services.mailer.render import Letterhead
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
    """An SMTP server that can go away and come back on the same port."""

    port: int = 0
    answer: str = "250 kept"
    mails: list[bytes] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    _server: asyncio.Server | None = None

    @property
    def server(self) -> SmtpServer:
        return SmtpServer.from_url(f"smtp://127.0.0.1:{self.port}")

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.mails.append(envelope.content)
            self.recipients.append(list(envelope.rcpt_tos))
        return self.answer

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: SMTP(self, loop=loop), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def has(self, count: int) -> None:
        async def is_so() -> bool:
            return len(self.mails) >= count

        await until(f"{count} mails, {len(self.mails)} came", is_so)
        assert len(self.mails) == count


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
        return await self.fallback.collect(messages_max or await self.waits(), asyncio.Event())


@asynccontextmanager
async def mailer(amqp_url: str, send: Send, *, rungs_ms: Sequence[int] = (RUNG_MS,)) -> AsyncIterator[Mailer]:
    publishing = Link(amqp_url, "test publish", topology.topology())
    consuming = Link(amqp_url, "test consume", topology.topology())
    publisher = Publisher()
    fallback = FallbackQueue(publisher, SystemClock())
    outbox = Outbox(send, publisher, LETTERHEAD, rungs_ms=rungs_ms)
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
