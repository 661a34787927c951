"""The next digest: shown from the history, or sent now. The queue that it waits in is never read for it."""

from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from aiohttp import web

from libs.common.clock import Clock, ceil_to_ms, format_utc
from libs.common.contracts import AskDigest, DigestAnswer, DigestPage, FailedTask
from libs.common.digest.render import SHOWN, Letterhead, as_html, as_text, content_of
from libs.common.digest.tally import Groups, tallies_of, trimmed
from libs.common.ids import new_id
from services.ingest.auth import BOOTSTRAP_PROJECT
from services.ingest.commands import Commands, unanswered
from services.ingest.endpoint import Endpoint, caller_of, json_response
from services.ingest.problems import Problem

# Nobody has told since when failures wait: then a day is what a daily digest has.
SINCE_UNKNOWN = timedelta(days=1)
STATUS_S = 2.0
COLLECT_S = 20.0
_NOBODY = Letterhead("nobody@carillon.invalid", ())


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


class Remembers(Protocol):
    async def failed_since(self, project: str, since: datetime) -> list[FailedTask]: ...


class DigestDoor:
    def __init__(self, commands: Commands, store: Remembers, clock: Clock) -> None:
        self._commands = commands
        self._store = store
        self._clock = clock

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
        project, now = caller_of(request).project, ceil_to_ms(self._clock.now())
        status = await self._ask("status", STATUS_S)
        since = status.last_at if status and status.last_at else now - SINCE_UNKNOWN
        groups = Groups()
        for task in await self._store.failed_since(project, since):
            groups.add(task)
        page = _page(groups, now)
        content = content_of(page, _NOBODY, *SHOWN[0])
        return json_response(
            DigestPreview(
                subject=content.subject,
                failed=len(groups),
                since=format_utc(since),
                next_at=format_utc(status.next_at) if status else None,
                text=as_text(content),
                html=as_html(content),
            )
        )

    async def send(self, request: web.Request) -> web.Response:
        if caller_of(request).project != BOOTSTRAP_PROJECT:
            detail = f"The digest is everybody's: send it with an admin key of the project {BOOTSTRAP_PROJECT}."
            raise Problem(403, "forbidden", detail)
        answer = await self._ask("now", COLLECT_S)
        if answer is None:
            raise unanswered("A digest may be on its way; another now would have only what is left.")
        if answer.result == "busy":
            raise Problem(409, "digest_under_way", "A digest is being collected just now; wait for its mail.")
        return json_response(DigestSent(pages=answer.pages, next_at=format_utc(answer.next_at)))

    async def _ask(self, action: str, within_s: float) -> DigestAnswer | None:
        command = AskDigest(command_id=new_id(), action=action)  # type: ignore[arg-type]  # one of the two above
        return await self._commands.ask_digest(command, within_s=within_s)


def _page(groups: Groups, now: datetime) -> DigestPage:
    shown = groups.worst_first()
    return DigestPage(
        id=new_id(),
        created_at=now,
        number=1,
        failed=tuple(trimmed(group.newest) for group in shown),
        tallies=tallies_of(shown, None),
        failed_more=groups.more,
    )
