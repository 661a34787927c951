"""The next digest: what waits for it, when it comes and to whom, how it will look; and sending it now.

The mail's HTML is a document of its own in a frame without scripts, forms or origin: it is full of strangers' words.
"""

from aiohttp import web

from libs.common.contracts import DigestAnswer
from libs.common.digest.render import as_html, as_text
from libs.common.publisher import NotPublished
from services.ingest.auth import BOOTSTRAP_PROJECT
from services.ingest.console.forms import back
from services.ingest.console.guard import audit_note
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import HEADERS, render
from services.ingest.digest_desk import DigestDesk
from services.ingest.problems import Problem

_POLICY = ("default-src 'none'", "style-src 'unsafe-inline'", "form-action 'none'", "base-uri 'none'")
MAIL_POLICY = "; ".join((*_POLICY, "frame-ancestors 'self'", "sandbox"))
"""Mails carry their styles inline, which the console's own pages never do."""


class DigestPages:
    def __init__(self, desk: DigestDesk) -> None:
        self._desk = desk

    def pages(self) -> list[Page]:
        return [
            Page(method="GET", path="/digest", handler=self.show, role="viewer"),
            Page(method="GET", path="/digest/mail", handler=self.mail, role="viewer"),
            Page(method="POST", path="/digest/send", handler=self.send, role="operator", action="digest.send"),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        project = visitor_of(request).project
        status = await self._status()
        preview = await self._desk.preview(project, status)
        return await render(
            request,
            "digest.html",
            status_of_mailer=status,
            readers=_readers(status, project),
            has_own_readers=status is not None and project in status.to_projects,
            preview=preview,
            text=as_text(preview.content),
            may_send=project == BOOTSTRAP_PROJECT,
            sender_project=BOOTSTRAP_PROJECT,
        )

    async def mail(self, request: web.Request) -> web.StreamResponse:
        preview = await self._desk.preview(visitor_of(request).project, await self._status())
        return web.Response(
            text=as_html(preview.content),
            content_type="text/html",
            headers={**HEADERS, "Content-Security-Policy": MAIL_POLICY},
        )

    async def send(self, request: web.Request) -> web.StreamResponse:
        audit_note(request, visitor_of(request).project)
        try:
            answer = await self._desk.send(visitor_of(request).project)
        except Problem as problem:
            audit_note(request).outcome = problem.code
            return await back(request, "/digest", told=problem.detail, kind="failed")
        audit_note(request, pages=answer.pages)
        if not answer.pages:
            return await back(request, "/digest", told="Nothing waited, so no mail is sent.")
        told = "1 mail is on its way." if answer.pages == 1 else f"{answer.pages} mails are on their way."
        return await back(request, "/digest", told=told)

    async def _status(self) -> DigestAnswer | None:
        """None when no mailer answers, or the broker does not take the question."""
        try:
            return await self._desk.status()
        except NotPublished:
            return None


def _readers(status: DigestAnswer | None, project: str) -> tuple[str, ...]:
    return () if status is None else status.to_projects.get(project, status.to)
