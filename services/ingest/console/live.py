"""What keeps open pages up to date: one poller for all of this process, and a stream of events to each tab.

Once a second, and only while somebody watches, the poller looks whether anything of a watched project has changed, and
tells its tabs "changed"; those that show the overview get its new content. However many tabs are open, that is one look
per project. A stream holds the newest of each event and no more, so a slow reader costs nothing.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

import structlog
from aiohttp import web
from prometheus_client import Gauge

from libs.common.lifecycle import Fatal, pause
from libs.common.metrics import REGISTRY
from libs.common.postgres import PostgresAway
from libs.common.redis import RedisAway
from services.ingest.console.guard import Guard
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import HEADERS
from services.ingest.problems import RETRY_AFTER_S, Problem
from services.ingest.store_overview import Signs

EVERY_S = 1.0
STREAMS_MAX = 500
"""Of this process. Who finds no room sees the page all the same, and loads it again."""
SILENCE_S = 15.0
"""Then a comment says that the stream lives: proxies and browsers give up on a silent one."""
CHECK_S = 30.0
"""So often it is asked whether the session is still good."""
WRITE_S = 10.0
"""Who takes nothing for so long is gone."""
FRESH_S = 5.0
"""A page may have been rendered that long before its stream begins: what has changed since then is told again."""
OVERVIEW = "overview"

STREAMS = Gauge(
    "carillon_ingest_console_streams", "Open pages of the console that are kept up to date", registry=REGISTRY
)

log = structlog.get_logger(__name__)


class KnowsChanges(Protocol):
    async def signs(self, project: str) -> Signs:
        """Raises: PostgresAway."""


class ShowsOverview(Protocol):
    async def pushed(self, app: web.Application, project: str) -> str:
        """HTML that replaces the overview's live part. Raises: PostgresAway."""


class Stream:
    """What one tab has not been told yet."""

    def __init__(self, project: str, of: str) -> None:
        self.project = project
        self.of = of
        self.is_new = True
        self.is_over = False
        self._is_changed = False
        self._html: str | None = None
        self._shown: str | None = None
        self._news = asyncio.Event()

    def tell_changed(self) -> None:
        self._is_changed = True
        self._news.set()

    def show(self, html: str) -> None:
        if html != self._shown:
            self._html = self._shown = html
            self._news.set()

    def end(self) -> None:
        self.is_over = True
        self._news.set()

    async def next(self, within_s: float) -> bytes:
        """The events there are, once there is one; empty when there is none in time, or no more at all."""
        try:
            async with asyncio.timeout(within_s):
                await self._news.wait()
        except TimeoutError:
            return b""
        self._news.clear()
        html, is_changed = self._html, self._is_changed
        self._html, self._is_changed = None, False
        return (_event(html) if html is not None else b"") + (b"event: changed\ndata:\n\n" if is_changed else b"")


class Live:
    """A worker and a page."""

    name = "live pages"

    def __init__(self, guard: Guard, changes: KnowsChanges, overview: ShowsOverview) -> None:
        self._guard = guard
        self._changes = changes
        self._overview = overview
        self._app: web.Application | None = None
        self._streams: dict[str, set[Stream]] = {}
        self._signs: dict[str, Signs] = {}
        self._changed_at: dict[str, float] = {}
        self._watched = asyncio.Event()
        self._is_stopping = False

    def pages(self) -> list[Page]:
        return [Page(method="GET", path="/live", handler=self.stream, role="viewer")]

    # --- the poller

    async def run(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                watched = asyncio.create_task(self._watched.wait())
                await asyncio.wait({watched, stop}, return_when=asyncio.FIRST_COMPLETED)
                watched.cancel()
                if self._watched.is_set() and not stopping.is_set():
                    await self.one_pass()
                    await pause(stopping, EVERY_S)
        finally:
            stop.cancel()
            self._is_stopping = True
            for stream in self._all():
                stream.end()

    async def one_pass(self) -> None:
        for project, streams in list(self._streams.items()):
            try:
                await self._look(project, streams)
            except PostgresAway as error:
                log.debug("live.waits", reason=str(error))
            except Fatal:
                raise
            except Exception:
                log.exception("live.failed", project=project)  # a page that cannot be drawn must not end ingest

    async def _look(self, project: str, streams: set[Stream]) -> None:
        signs = await self._changes.signs(project)
        html = None
        if self._app is not None and any(stream.of == OVERVIEW for stream in streams):
            html = await self._overview.pushed(self._app, project)
        if not streams:
            return  # they have gone meanwhile
        is_changed = signs != self._signs.get(project)
        if is_changed:
            self._signs[project], self._changed_at[project] = signs, time.monotonic()
        is_fresh = time.monotonic() - self._changed_at[project] < FRESH_S
        for stream in streams:
            if is_changed or (stream.is_new and is_fresh):
                stream.tell_changed()
            stream.is_new = False
            if html is not None and stream.of == OVERVIEW:
                stream.show(html)

    # --- a tab

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Events until the tab is closed, its session is over, or this process stops."""
        if self._is_stopping or len(self._all()) >= STREAMS_MAX:
            raise _no_room()
        stream = Stream(visitor_of(request).project, request.query.get("of", ""))
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        self._add(stream, request.app)
        try:
            await response.prepare(request)
            if request.method != "HEAD":
                await self._feed(request, response, stream)
        except (ConnectionError, TimeoutError):
            pass  # the tab is gone, or takes nothing
        finally:
            self._remove(stream)
        return response

    async def _feed(self, request: web.Request, response: web.StreamResponse, stream: Stream) -> None:
        check_at = time.monotonic() + CHECK_S
        while True:
            events = await stream.next(min(SILENCE_S, max(check_at - time.monotonic(), 0.0)))
            if stream.is_over:
                return
            if time.monotonic() >= check_at:
                check_at = time.monotonic() + CHECK_S
                if not await self._may_go_on(request, stream):
                    events, stream.is_over = b"event: ended\ndata:\n\n", True
            async with asyncio.timeout(WRITE_S):
                await response.write(events or b":\n\n")
            if stream.is_over:
                return

    async def _may_go_on(self, request: web.Request, stream: Stream) -> bool:
        """Without Redis or Postgres nobody knows: the tab comes again, and is asked."""
        try:
            visitor = await self._guard.visitor(request, is_use=False)
        except (RedisAway, PostgresAway):
            return False
        return visitor is not None and stream.project in (*visitor.projects, visitor.project)

    def _add(self, stream: Stream, app: web.Application) -> None:
        self._app = app
        self._streams.setdefault(stream.project, set()).add(stream)
        self._watched.set()
        STREAMS.inc()

    def _remove(self, stream: Stream) -> None:
        STREAMS.dec()
        streams = self._streams[stream.project]
        streams.discard(stream)
        if not streams:
            del self._streams[stream.project]
            self._signs.pop(stream.project, None)
            self._changed_at.pop(stream.project, None)
        if not self._streams:
            self._watched.clear()

    def _all(self) -> list[Stream]:
        return [stream for streams in self._streams.values() for stream in streams]


_STREAM_HEADERS: Mapping[str, str] = {
    **HEADERS,
    "Content-Type": "text/event-stream",
    "X-Accel-Buffering": "no",  # nginx would gather events
}


def _event(html: str) -> bytes:
    return b"".join(b"data: " + line.encode() + b"\n" for line in html.splitlines() if line.strip()) + b"\n"


def _no_room() -> Problem:
    detail = "No more pages can be kept up to date by themselves now. They can be loaded again."
    return Problem(503, "no_room", detail, headers={"Retry-After": str(RETRY_AFTER_S)})
