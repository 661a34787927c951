"""What the next digest will say, and a digest at once: for the door and for the console alike."""

from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from libs.common.clock import Clock, ceil_to_ms
from libs.common.contracts import AskDigest, DigestAnswer, DigestPage, FailedTask
from libs.common.digest.render import SHOWN, Content, Letterhead, content_of
from libs.common.digest.tally import Groups, tallies_of, trimmed
from libs.common.ids import new_id
from services.ingest.auth import BOOTSTRAP_PROJECT
from services.ingest.commands import Commands, unanswered
from services.ingest.problems import Problem

# Nobody has told since when failures wait: then a day is what a daily digest has.
SINCE_UNKNOWN = timedelta(days=1)
STATUS_S = 2.0
COLLECT_S = 20.0
_NOBODY = Letterhead("nobody@carillon.invalid", ())


class Preview(NamedTuple):
    """A project's part of the next digest, but for notices, which no history has. `since`: of the last digest."""

    content: Content
    failed: int
    since: datetime


class Remembers(Protocol):
    """`DigestStore`. Raises PostgresAway."""

    async def failed_since(self, project: str, since: datetime) -> list[FailedTask]: ...


class DigestDesk:
    def __init__(self, commands: Commands, store: Remembers, clock: Clock) -> None:
        self._commands = commands
        self._store = store
        self._clock = clock

    async def status(self) -> DigestAnswer | None:
        """How things stand; None when no mailer answers. Raises: NotPublished."""
        return await self._ask("status", STATUS_S)

    async def preview(self, project: str, status: DigestAnswer | None) -> Preview:
        now = ceil_to_ms(self._clock.now())
        since = status.last_at if status and status.last_at else now - SINCE_UNKNOWN
        groups = Groups()
        for task in await self._store.failed_since(project, since):
            groups.add(task)
        return Preview(content_of(_page(groups, now), _NOBODY, *SHOWN[0]), len(groups), since)

    async def send(self, project: str) -> DigestAnswer:
        """What waits for all projects, now. Raises: Problem (403, 409, 503), NotPublished."""
        if project != BOOTSTRAP_PROJECT:
            detail = f"The digest is everybody's: send it with an admin key of the project {BOOTSTRAP_PROJECT}."
            raise Problem(403, "forbidden", detail)
        answer = await self._ask("now", COLLECT_S)
        if answer is None:
            raise unanswered("A digest may be on its way; another now would have only what is left.")
        if answer.result == "busy":
            raise Problem(409, "digest_under_way", "A digest is being collected just now; wait for its mail.")
        return answer

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
