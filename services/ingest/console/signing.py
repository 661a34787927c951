"""The project's signing secret: how old it is, shown on demand, a new one in its place. For admins."""

from aiohttp import web

from services.ingest.console.forms import back, field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.visible import one_line
from services.ingest.problems import Problem
from services.ingest.signing_secrets import RotateSecret, SecretView, SigningSecrets

HOUR_S = 3600.0


class SigningPages:
    def __init__(self, secrets: SigningSecrets) -> None:
        self._secrets = secrets

    def pages(self) -> list[Page]:
        path = "/signing-secret"
        return [
            Page(method="GET", path=path, handler=self.show, role="admin"),
            Page(method="POST", path=f"{path}/show", handler=self.reveal, role="admin", action="secret.show"),
            Page(method="POST", path=f"{path}/rotate", handler=self.rotate, role="admin", action="secret.rotate"),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await self._page(request)

    async def reveal(self, request: web.Request) -> web.StreamResponse:
        """In this answer only, which no browser keeps: going back to it asks for it again."""
        audit_note(request, visitor_of(request).project)
        return await self._page(request, is_shown=True)

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        visitor, typed = visitor_of(request), one_line(field_of(request, "overlap_h"))
        is_forced = field_of(request, "force") == "yes"
        audit_note(request, visitor.project, overlap_h=typed, force=is_forced)
        try:
            asked = RotateSecret(overlap_s=float(typed or "24") * HOUR_S, force=is_forced)
        except ValueError:
            return await self._page(request, status=422, typed=typed, fault="is no number of hours")
        try:
            view, is_in_force = await self._secrets.rotate(visitor.project, f"user:{visitor.name}", asked)
        except Problem as problem:
            if problem.errors:
                return await self._page(request, status=422, typed=typed, fault="give 0 to 720 hours, 30 days")
            if problem.code != "rotation_not_over":
                raise
            return await self._page(request, status=409, typed=typed, is_over=False)
        audit_note(request, version=view.version)
        told = f"Version {view.version} signs from now on; until the overlap ends, the one before as well."
        late = "" if is_in_force else " It is in force within 30 seconds."
        return await back(request, "/signing-secret", told=told + late)

    async def _page(
        self,
        request: web.Request,
        *,
        status: int = 200,
        is_shown: bool = False,
        is_over: bool = True,
        typed: str = "24",
        fault: str | None = None,
    ) -> web.Response:
        view, missing = await self._view(visitor_of(request).project)
        return await render(
            request,
            "signing_secret.html",
            status=status,
            view=view,
            missing=missing,
            is_shown=is_shown,
            is_over=is_over,
            typed=typed,
            fault=fault,
        )

    async def _view(self, project: str) -> tuple[SecretView | None, str | None]:
        """Or why this installation does not show it."""
        try:
            return await self._secrets.show(project), None
        except Problem as problem:
            if problem.code != "signing_key_not_set":
                raise
            return None, problem.detail
