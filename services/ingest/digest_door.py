"""The next digest: shown from the history, or sent now. The queue that it waits in is never read for it."""

import msgspec
from aiohttp import web

from libs.common.clock import Clock, format_utc
from libs.common.digest.render import as_html, as_text
from services.ingest.commands import Commands
from services.ingest.digest_desk import DigestDesk, Remembers
from services.ingest.endpoint import Endpoint, caller_of, json_response


class DigestPreview(msgspec.Struct, frozen=True, kw_only=True):
    """The project's part of the next digest, but for notices, which no history has. `since`: of the last digest."""

    subject: str
    failed: int
    since: str
    next_at: str | None
    text: str
    html: str


class DigestSent(msgspec.Struct, frozen=True, kw_only=True):
    """`pages` mails are on their way; none when nothing waited."""

    pages: int
    next_at: str


class DigestDoor:
    def __init__(self, commands: Commands, store: Remembers, clock: Clock) -> None:
        self._desk = DigestDesk(commands, store, clock)

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path="/v1/digest/preview",
                handler=self.preview,
                scope="tasks:read",
                summary="The next digest mail, as far as the project is in it",
                gives={200: DigestPreview},
                problems=(503,),
            ),
            Endpoint(
                method="POST",
                path="/v1/digest/send",
                handler=self.send,
                scope="admin",
                summary="Send the digest of all that waits now; its schedule stays",
                gives={200: DigestSent},
                problems=(409, 503),
            ),
        ]

    async def preview(self, request: web.Request) -> web.Response:
        status = await self._desk.status()
        content, failed, since = await self._desk.preview(caller_of(request).project, status)
        return json_response(
            DigestPreview(
                subject=content.subject,
                failed=failed,
                since=format_utc(since),
                next_at=format_utc(status.next_at) if status else None,
                text=as_text(content),
                html=as_html(content),
            )
        )

    async def send(self, request: web.Request) -> web.Response:
        answer = await self._desk.send(caller_of(request).project)
        return json_response(DigestSent(pages=answer.pages, next_at=format_utc(answer.next_at)))
