"""The choice of the project that is looked at; it holds for the session."""

from aiohttp import web

from services.ingest.console.forms import field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.page import ROOT, Page, visitor_of
from services.ingest.console.sessions import Sessions
from services.ingest.problems import Problem


class ProjectPages:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def pages(self) -> list[Page]:
        return [Page(method="POST", path="/project", handler=self.choose, role="viewer", action="project.choose")]

    async def choose(self, request: web.Request) -> web.StreamResponse:
        visitor, project = visitor_of(request), field_of(request, "project")
        audit_note(request, project)
        if project not in visitor.projects:
            raise Problem(404, "not_found", "There is no such project, or it is not one of yours.")
        visitor.session.project = project
        await self._sessions.save(visitor.session)
        raise web.HTTPSeeOther(ROOT)
