"""The audit log: who did what, and what came of it, newest first."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from aiohttp import web
from yarl import URL

from libs.common.clock import Clock
from services.ingest.console.page import ROOT, Page
from services.ingest.console.render import render
from services.ingest.console.search import HOW_TO_SAY_WHEN, moment_of
from services.ingest.cursor import seal, unseal
from services.ingest.store_audit import AuditRow, AuditStore, AuditWords
from services.ingest.times import BadTime

PAGE = 100
OUTCOMES = (("", "any"), ("done", "done"), ("other", "not done"))
_WORDS = ("who", "action", "about", "outcome")
_MOMENTS = ("after", "before")
_CHARS_MAX = 200
_SCOPE = b"console audit"


@dataclass(frozen=True)
class Asked:
    """What was typed, and what is wrong with it, by field."""

    typed: dict[str, str]
    wanted: AuditWords
    faults: dict[str, str]

    def link(self, **different: str) -> str:
        query = {name: value for name, value in (self.typed | different).items() if value}
        return str(URL(f"{ROOT}/audit").with_query(query))


class AuditPages:
    def __init__(self, audit: AuditStore, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock

    def pages(self) -> list[Page]:
        return [Page(method="GET", path="/audit", handler=self.list, role="admin")]

    async def list(self, request: web.Request) -> web.StreamResponse:
        asked = _asked(request, self._clock.now())
        cursor = request.query.get("cursor")
        before = None if cursor is None else UUID(bytes=unseal(cursor, _SCOPE))
        rows = [] if asked.faults else await self._audit.page(asked.wanted, before, PAGE + 1)
        older = asked.link(cursor=seal(rows[PAGE - 1].id.bytes, _SCOPE)) if len(rows) > PAGE else None
        return await render(
            request,
            "audit.html",
            status=422 if asked.faults else 200,
            rows=rows[:PAGE],
            older=older,
            newest=None if before is None else asked.link(),
            asked=asked,
            outcomes=OUTCOMES,
            details=details,
        )


def details(row: AuditRow) -> str:
    """`role: viewer; projects: shop billing`, without what is empty."""
    told = row.detail.items()
    texts = ((name, " ".join(map(str, value)) if isinstance(value, list) else value) for name, value in told)
    return "; ".join(f"{name}: {text}" for name, text in texts if text not in ("", None))


def _asked(request: web.Request, now: datetime) -> Asked:
    typed = {name: request.query.get(name, "").strip()[:_CHARS_MAX] for name in (*_WORDS, *_MOMENTS)}
    typed = {name: value.replace("\0", "") for name, value in typed.items()}
    moments: dict[str, datetime | None] = dict.fromkeys(_MOMENTS)
    faults = {}
    for name in _MOMENTS:
        try:
            moments[name] = moment_of(typed[name], now) if typed[name] else None
        except BadTime:
            faults[name] = f"That is no time: {HOW_TO_SAY_WHEN}."
    words = AuditWords(typed["who"].lower(), typed["action"], typed["about"], typed["outcome"], **moments)
    return Asked(typed, words, faults)
