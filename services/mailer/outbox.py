"""One page of the outbox: rendered, sent, and acked only after the server's 250.

mailer.outbox --render--> SMTP -- 250 --------> done
      ^                    |
      +-- mailer.retry ----+-- anything else    tries + 1; the last rung repeats until it is taken: never dropped
"""

from collections.abc import Awaitable, Callable, Sequence
from email.message import EmailMessage
from typing import TypeAlias

import msgspec
import structlog
from prometheus_client import Counter

from libs.common.contracts import DigestPage, encode
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.topology import MAILER_RUNGS_MS, mailer_rung
from services.mailer.render import Letterhead, render
from services.mailer.smtp import NotSent

MAILS = Counter("carillon_mailer_mails_total", "Digest mails by what became of them", ["outcome"], registry=REGISTRY)

Send: TypeAlias = Callable[[EmailMessage, Sequence[str]], Awaitable[None]]
"""Raises: NotSent."""

log = structlog.get_logger(__name__)


class Outbox:
    def __init__(
        self,
        send: Send,
        publisher: Publisher,
        letterhead: Letterhead,
        *,
        rungs_ms: Sequence[int] = MAILER_RUNGS_MS,
    ) -> None:
        self._send = send
        self._publisher = publisher
        self._letterhead = letterhead
        self._rungs_ms = rungs_ms

    async def handle(self, page: DigestPage) -> None:
        """Return when the page is in the server's hands, or waits on a rung."""
        message = render(page, self._letterhead)
        try:
            await self._send(message, self._letterhead.recipients)
        except NotSent as error:
            await self._retry(page, error)
        else:
            MAILS.labels("sent").inc()
            log.info("mail.sent", page_id=page.id, tries=page.tries, subject=str(message["Subject"]))

    async def _retry(self, page: DigestPage, error: NotSent) -> None:
        delay_ms = self._rungs_ms[min(page.tries, len(self._rungs_ms) - 1)]
        later = msgspec.structs.replace(page, tries=page.tries + 1)
        await self._publisher.insist(mailer_rung(delay_ms), encode(later))
        MAILS.labels(error.outcome).inc()
        log.error("mail.delayed", page_id=page.id, tries=later.tries, delay_ms=delay_ms, reason=str(error))
