"""While there is no user: the link for the first one, in the log. Later: nothing older than it is kept for."""

import asyncio
from datetime import timedelta

import structlog

from libs.common.clock import Clock
from libs.common.lifecycle import pause
from libs.common.postgres import PostgresAway
from services.ingest.console.user_text import LINK_LIVES, new_link
from services.ingest.store_audit import FORGET_BATCH, AuditStore
from services.ingest.store_users import UserStore

EVERY_S = 3600.0
AGAIN_S = 5.0
"""After Postgres was away."""

log = structlog.get_logger(__name__)


class Keeping:
    """A worker."""

    name = "console"

    def __init__(self, users: UserStore, audit: AuditStore, clock: Clock, *, url: str, retention_days: int) -> None:
        self._users = users
        self._audit = audit
        self._clock = clock
        self._url = url
        self._retention = timedelta(days=retention_days)
        self._is_announced = False

    async def run(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self.one_pass(stopping)
            except PostgresAway:
                await pause(stopping, AGAIN_S)
            else:
                await pause(stopping, EVERY_S)

    async def one_pass(self, stopping: asyncio.Event) -> None:
        if not self._is_announced:
            await self.announce()
            self._is_announced = True
        now = self._clock.now()
        await self._users.forget_links(now)
        forgotten = FORGET_BATCH
        while forgotten == FORGET_BATCH and not stopping.is_set():
            forgotten = await self._audit.forget(now - self._retention)

    async def announce(self) -> None:
        """At each start while there is no user. Each replica tells its own; the first that is used ends them all."""
        link, now = new_link(), self._clock.now()
        if await self._users.add_first_link(link.digest, now, now + LINK_LIVES):
            log.warning("console.has-no-user", link=self._url + link.path, expires_at=(now + LINK_LIVES).isoformat())
