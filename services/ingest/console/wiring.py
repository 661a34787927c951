"""Every page of the console with what it needs."""

from dataclasses import dataclass

from aiohttp import web
from redis.asyncio import Redis

from libs.common.clock import Clock
from libs.common.lifecycle import Worker
from libs.common.postgres import Postgres
from libs.common.publisher import Publisher
from services.ingest.commands import Commands
from services.ingest.console.app import add_console
from services.ingest.console.guard import Cookie, Guard
from services.ingest.console.page import Page, Pages
from services.ingest.console.project import ProjectPages
from services.ingest.console.sessions import Sessions
from services.ingest.settings import IngestSettings
from services.ingest.store_audit import AuditStore
from services.ingest.store_users import UserStore


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What ingest is made of, as far as pages need it."""

    postgres: Postgres
    redis: Redis
    publisher: Publisher
    commands: Commands
    clock: Clock
    settings: IngestSettings


class Console:
    """`workers` are to be run beside the HTTP server."""

    def __init__(self, parts: Parts) -> None:
        users = UserStore(parts.postgres)
        sessions = Sessions(parts.redis, parts.clock)
        url = parts.settings.public_url or ""
        cookie = Cookie(is_secure=not url.startswith("http://"))
        self.guard = Guard(sessions, users, AuditStore(parts.postgres), parts.clock, cookie)
        self.workers: list[Worker] = []
        rooms: list[Pages] = [
            ProjectPages(sessions),
        ]
        self.pages: list[Page] = [page for room in rooms for page in room.pages()]

    def add_to(self, app: web.Application) -> None:
        add_console(app, self.pages, self.guard)
