"""One page of the outbox: rendered, sent, and acked only after the server's 250.

mailer.outbox --render--> SMTP -- 250 --------> done
      ^                    |
      +-- mailer.retry ----+-- anything else    tries + 1; the last rung repeats until it is taken: never dropped

A recipient who is refused for good (5xx) while another is served is dropped with an alarm; one who is put off (4xx)
gets the same page again, alone. A refused login is not repeated for five minutes, whatever waits.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.message import EmailMessage
from typing import TypeAlias

import msgspec
import structlog
from prometheus_client import Counter, Gauge

from libs.common.contracts import DigestPage, encode
from libs.common.digest.render import Letterhead, plainly, render
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.topology import MAILER_RUNGS_MS, mailer_rung
from services.mailer.pages import Recipients
from services.mailer.smtp import LoginRefused, NotSent, Sent

LOGIN_PAUSE_S = 300.0

MAILS = Counter("carillon_mailer_mails_total", "Digest mails by what became of them", ["outcome"], registry=REGISTRY)
DROPPED = Counter(
    "carillon_mailer_recipients_dropped_total", "Recipients that the mail server refused for good", registry=REGISTRY
)
LAST_SENT = Gauge(
    "carillon_mailer_last_sent_timestamp_seconds", "When the mail server last took a mail", registry=REGISTRY
)
LOGIN_IS_REFUSED = Gauge(
    "carillon_mailer_login_refused", "1 while the mail server refuses user or password", registry=REGISTRY
)

Send: TypeAlias = Callable[[EmailMessage, Sequence[str]], Awaitable[Sent]]
"""Raises: NotSent."""

log = structlog.get_logger(__name__)


class Outbox:
    def __init__(
        self,
        send: Send,
        publisher: Publisher,
        letterhead: Letterhead,
        routes: Mapping[str, Recipients] | None = None,
        *,
        rungs_ms: Sequence[int] = MAILER_RUNGS_MS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._publisher = publisher
        self._letterhead = letterhead
        self._routes = routes or {}
        self._rungs_ms = rungs_ms
        self._monotonic = monotonic
        self._paused_until = 0.0

    async def handle(self, page: DigestPage) -> None:
        """Return when the page is in the server's hands, or waits on a rung."""
        if self._monotonic() < self._paused_until:
            return await self._later(page, "paused")
        if page.is_urgent and not page.recipients:  # the dispatcher does not know who reads
            page = msgspec.structs.replace(page, recipients=self._routes.get(page.failed[0].project, ()))
        message = _rendered(page, self._letterhead)
        try:
            sent = await self._send(message, page.recipients or self._letterhead.recipients)
        except NotSent as error:
            log.error("mail.delayed", page_id=page.id, tries=page.tries + 1, reason=str(error))
            if isinstance(error, LoginRefused):
                LOGIN_IS_REFUSED.set(1)
                self._paused_until = self._monotonic() + LOGIN_PAUSE_S
            return await self._later(msgspec.structs.replace(page, tries=page.tries + 1), error.outcome)
        await self._sent(page, sent)

    async def _sent(self, page: DigestPage, sent: Sent) -> None:
        if sent.later:
            rest = msgspec.structs.replace(page, recipients=sent.later, tries=page.tries + 1)
            await self._later(rest, "partly")
        DROPPED.inc(len(sent.never))
        MAILS.labels("sent").inc()
        LAST_SENT.set_to_current_time()
        LOGIN_IS_REFUSED.set(0)
        log.info("mail.sent", page_id=page.id, tries=page.tries, dropped=sent.never)

    async def _later(self, page: DigestPage, outcome: str) -> None:
        delay_ms = self._rungs_ms[min(max(page.tries - 1, 0), len(self._rungs_ms) - 1)]
        await self._publisher.insist(mailer_rung(delay_ms), encode(page))
        MAILS.labels(outcome).inc()


def _rendered(page: DigestPage, letterhead: Letterhead) -> EmailMessage:
    try:
        return render(page, letterhead)
    except Exception:
        log.exception("mail.unrenderable", page_id=page.id)
        return plainly(page, letterhead)
