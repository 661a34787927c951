"""The users: who there is, what each may, and one-time links for those who are invited or forgot their password.

Disabling and demoting never take away the last admin who can log in (store_users.py).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple, cast
from uuid import UUID

from aiohttp import web

from libs.common.clock import Clock
from libs.common.ids import new_id
from services.ingest.console.forms import back, field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.page import ROLES, Handler, Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.user_text import LINK_LIVES, name_fault, name_of, new_link
from services.ingest.keyring import project_error
from services.ingest.problems import Problem, not_found
from services.ingest.store_users import USERS_MAX, Changed, ConsoleUser, NewUser, Role, UserStore

PROJECTS_MAX = 200
_LAST_ADMIN = "This is the last admin who can log in. Make another one first."


class UserForm(NamedTuple):
    """What was typed."""

    name: str = ""
    role: str = "operator"
    projects: str = ""

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.projects.replace(",", " ").split()))

    def faults(self) -> dict[str, str]:
        """By field."""
        faults = {}
        if fault := name_fault(self.name):
            faults["name"] = fault
        if self.role not in ROLES:
            faults["role"] = f"is none: choose {', '.join(ROLES)}"
        if fault := self._projects_fault():
            faults["projects"] = fault
        return faults

    def _projects_fault(self) -> str | None:
        if self.role == "admin" and self.named:
            return "are not for an admin, who sees all: leave them out"
        if len(self.named) > PROJECTS_MAX:
            return f"are too many: name {PROJECTS_MAX} at most, or none for all"
        wrong = next((project for project in self.named if project_error(project)), None)
        return None if wrong is None else f"has {wrong[:80]}, which is no name: write 1 to 64 of a-z, 0-9, - and _"


class UserPages:
    def __init__(self, users: UserStore, clock: Clock, public_url: str | None) -> None:
        self._users = users
        self._clock = clock
        self._public_url = public_url

    def pages(self) -> list[Page]:
        def post(path: str, handler: Handler, action: str) -> Page:
            return Page(method="POST", path=path, handler=handler, role="admin", action=action)

        return [
            Page(method="GET", path="/users", handler=self.list, role="admin"),
            Page(method="GET", path="/users/{id}", handler=self.show, role="admin"),
            post("/users", self.invite, "user.invite"),
            post("/users/{id}", self.change, "user.change"),
            post("/users/{id}/disable", self.disable, "user.disable"),
            post("/users/{id}/enable", self.enable, "user.enable"),
            post("/users/{id}/link", self.link, "user.link"),
            post("/users/{id}/logout", self.log_out, "user.logout-everywhere"),
        ]

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await self._list(request, UserForm())

    async def show(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        return await self._show(request, user, UserForm(user.name, user.role, " ".join(user.projects)))

    async def invite(self, request: web.Request) -> web.StreamResponse:
        form = _form(request, name_of(field_of(request, "name")))
        faults = form.faults()
        if faults:
            return await self._list(request, form, faults)
        audit_note(request, form.name, role=form.role, projects=form.named or "all")
        user, now = NewUser(new_id(), form.name, cast("Role", form.role), form.named), self._clock.now()
        match await self._users.add(user, now):
            case "taken":
                return await self._list(request, form, {"name": "is taken: there is such a user already"})
            case "full":
                raise Problem(
                    409, "too_many_users", f"There are {USERS_MAX} users, counting disabled ones: no more fit."
                )
        return await self._new_link(request, user.id, user.name, now)

    async def change(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        form = _form(request, user.name)
        audit_note(request, user.name, role=form.role, projects=form.named or "all")
        faults = form.faults()
        if faults:
            return await self._show(request, user, form, faults)
        changed = await self._users.change(user.id, cast("Role", form.role), form.named, self._clock.now())
        return await _told(request, user, changed, f"{user.name} is changed, from the next page on.")

    async def disable(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        audit_note(request, user.name)
        changed = await self._users.disable(user.id, self._clock.now())
        return await _told(request, user, changed, f"{user.name} is disabled, and logged out everywhere.")

    async def enable(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        audit_note(request, user.name)
        changed = await self._users.enable(user.id, self._clock.now())
        return await _told(request, user, changed, f"{user.name} may log in again.")

    async def link(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        audit_note(request, user.name)
        if user.disabled_at is not None:
            raise Problem(409, "user_disabled", f"{user.name} is disabled: enable them first.")
        return await self._new_link(request, user.id, user.name, self._clock.now())

    async def log_out(self, request: web.Request) -> web.StreamResponse:
        user = await self._user(request)
        audit_note(request, user.name)
        await self._users.end_sessions(user.id, self._clock.now())
        return await _told(request, user, "done", f"{user.name} is logged out everywhere.")

    async def _user(self, request: web.Request) -> ConsoleUser:
        """Raises: Problem (404)."""
        try:
            user = await self._users.by_id(UUID(request.match_info["id"]))
        except ValueError:
            user = None
        if user is None:
            raise not_found("There is no such user")
        return user

    async def _new_link(self, request: web.Request, id_: UUID, name: str, now: datetime) -> web.StreamResponse:
        """The only page that shows it."""
        link = new_link()
        await self._users.add_link(link.digest, id_, now, now + LINK_LIVES)
        url = (self._public_url or _seen_as(request)) + link.path
        return await render(request, "user_link.html", name=name, id=id_, url=url, until=now + LINK_LIVES)

    async def _list(
        self, request: web.Request, form: UserForm, faults: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        users, status = await self._users.everyone(), 422 if faults else 200
        values = {"users": users, "form": form, "faults": faults or {}, "roles": ROLES}
        return await render(request, "users.html", status=status, **values)

    async def _show(
        self, request: web.Request, user: ConsoleUser, form: UserForm, faults: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        is_me, status = user.id == visitor_of(request).user_id, 422 if faults else 200
        values = {"user": user, "form": form, "faults": faults or {}, "roles": ROLES, "is_me": is_me}
        return await render(request, "user.html", status=status, **values)


async def _told(request: web.Request, user: ConsoleUser, changed: Changed, told: str) -> web.StreamResponse:
    path = f"/users/{user.id}"
    if changed == "last_admin":
        audit_note(request).outcome = "last_admin"
        return await back(request, path, told=_LAST_ADMIN, kind="failed")
    return await back(request, path, told=told)


def _form(request: web.Request, name: str) -> UserForm:
    return UserForm(name, field_of(request, "role"), field_of(request, "projects").lower())


def _seen_as(request: web.Request) -> str:
    """How this admin's browser reaches us, which says so itself with each form."""
    origin = request.headers.get("Origin", "")
    return origin if origin.startswith(("http://", "https://")) else f"{request.scheme}://{request.host}"
