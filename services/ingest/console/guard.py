"""What stands before each row of the console: the session, the role, where a form comes from, and the audit log."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import MultiDictProxy
from yarl import URL

from libs.common.clock import Clock
from libs.common.ids import new_id
from libs.common.postgres import PostgresAway
from libs.common.redis import RedisAway
from services.ingest.auth import BOOTSTRAP_PROJECT
from services.ingest.bodies import in_time
from services.ingest.console.address import TrustedProxies
from services.ingest.console.page import (
    CSRF_FIELD,
    PROJECT_FIELD,
    ROOT,
    VISITOR,
    Handler,
    Page,
    Role,
    Visitor,
)
from services.ingest.console.sessions import Sessions
from services.ingest.problems import RETRY_AFTER_S, Problem, bug, problem_of
from services.ingest.store_audit import AuditStore
from services.ingest.store_users import ConsoleUser

FORM = web.RequestKey("form", MultiDictProxy)
PROJECTS_S = 10.0
"""So long a list of all projects is believed."""
SEEN_EVERY = timedelta(minutes=1)

log = structlog.get_logger(__name__)


class KnowsUsers(Protocol):
    """The part of `UserStore` that this needs. All raise PostgresAway."""

    async def by_id(self, id_: UUID) -> ConsoleUser | None: ...

    async def projects(self) -> list[str]: ...

    async def seen(self, id_: UUID, now: datetime) -> None: ...


class Cookie(NamedTuple):
    """The session's. One that is `is_secure` is never sent over plain HTTP, but to this machine itself."""

    is_secure: bool = True

    @property
    def name(self) -> str:
        return "__Host-carillon" if self.is_secure else "carillon"

    def set(self, response: web.StreamResponse, token: str) -> None:
        response.set_cookie(self.name, token, secure=self.is_secure, httponly=True, samesite="Lax", path="/")

    def clear(self, response: web.StreamResponse) -> None:
        response.del_cookie(self.name, secure=self.is_secure, httponly=True, samesite="Lax", path="/")


@dataclass
class AuditNote:
    """What a handler says of what it does. `outcome`: when it is not what the answer's status says."""

    about: str = ""
    detail: dict[str, object] = field(default_factory=dict)
    outcome: str | None = None
    actor: str | None = None


NOTE = web.RequestKey("audit_note", AuditNote)


def audit_note(request: web.Request, object_: str | None = None, **detail: object) -> AuditNote:
    """Write down what an action is about: the id or name of the object, and values of JSON."""
    note = request[NOTE]
    if object_ is not None:
        note.about = object_
    note.detail |= detail
    return note


class Guard:
    def __init__(
        self,
        sessions: Sessions,
        users: KnowsUsers,
        audit: AuditStore,
        clock: Clock,
        cookie: Cookie,
        proxies: TrustedProxies,
    ) -> None:
        self.sessions = sessions
        self.cookie = cookie
        self.proxies = proxies
        self._users = users
        self._audit = audit
        self._clock = clock
        self._projects: tuple[float, list[str]] = (float("-inf"), [])

    def guarded(self, page: Page) -> Handler:
        """The handler behind all of it."""

        async def served(request: web.Request) -> web.StreamResponse:
            if page.method == "GET":
                await self._enter(request, page)
                return await page.handler(request)
            _refuse_other_sites(request)
            visitor = await self._enter(request, page)
            request[FORM] = await _form(request)
            if visitor is not None:
                visitor = request[VISITOR] = _as_sent(visitor, request[FORM])
            if page.gate is not None:
                await page.gate(request)
            return await self._audited(request, page, visitor)

        return served

    async def visitor(self, request: web.Request, *, is_use: bool = True) -> Visitor | None:
        """Whose session the cookie names; None without one. Raises: RedisAway, PostgresAway."""
        token = request.cookies.get(self.cookie.name)
        session = await self.sessions.find(token, is_use=is_use) if token else None
        if session is None:
            return None
        user = await self._users.by_id(session.user_id)
        if user is None or user.disabled_at is not None or user.epoch != session.epoch:
            return None
        if is_use:
            await self._note_seen(user)
        projects = sorted(user.projects) or await self._all_projects()
        project = session.project if session.project in projects else _first(projects)
        return Visitor(
            user_id=user.id,
            name=user.name,
            role=user.role,
            project=project,
            projects=tuple(projects),
            sees_all=not user.projects,
            session=session,
        )

    async def _enter(self, request: web.Request, page: Page) -> Visitor | None:
        """Raises: Problem 401 or 403, HTTPSeeOther to the log-in."""
        if page.role is None:
            return None
        visitor = await self.visitor(request)
        if visitor is None:
            raise _to_login(request)
        visitor = await self._in_project(request, visitor)
        request[VISITOR] = visitor
        if not visitor.may(page.role):
            raise _lacks(page.role)
        return visitor

    async def _in_project(self, request: web.Request, visitor: Visitor) -> Visitor:
        """A link may name the project that it is about."""
        wanted = request.query.get("project")
        if wanted is None or request.method != "GET" or wanted == visitor.project:
            return visitor
        visitor = _looking_at(visitor, wanted)
        visitor.session.project = wanted
        await self.sessions.save(visitor.session)
        return visitor

    async def _audited(self, request: web.Request, page: Page, visitor: Visitor | None) -> web.StreamResponse:
        """A row that cannot be written lets nothing happen."""
        assert page.action is not None
        note, id_ = AuditNote(), new_id()
        request[NOTE] = note
        await self._audit.begin(
            id_,
            self._clock.now(),
            actor=visitor.name if visitor else "",
            project=visitor.project if visitor else None,
            action=page.action,
            address=request.remote or "",
        )
        outcome = "crashed"
        try:
            response = await page.handler(request)
            outcome = note.outcome or ("done" if response.status < 400 else "refused")
            return response
        except Exception as error:
            outcome = note.outcome or _outcome_of(error)
            raise
        finally:
            try:
                await self._audit.end(id_, outcome, object_=note.about, detail=note.detail, actor=note.actor)
            except PostgresAway:  # what was done is done: its answer goes out, and the row says that it was begun
                log.warning("audit.outcome_lost", audit_id=str(id_), action=page.action, outcome=outcome)

    async def _note_seen(self, user: ConsoleUser) -> None:
        now = self._clock.now()
        if user.last_seen_at is None or now - user.last_seen_at > SEEN_EVERY:
            await self._users.seen(user.id, now)

    async def _all_projects(self) -> list[str]:
        read_at, projects = self._projects
        if time.monotonic() - read_at > PROJECTS_S:
            projects = await self._users.projects()
            self._projects = (time.monotonic(), projects)
        return projects


def session_problem() -> Problem:
    return Problem(
        503,
        "sessions_unavailable",
        "Who is logged in cannot be looked up: Redis does not answer. Tasks are called all the same. Try again soon.",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def problem_for(error: Exception) -> Problem:
    """What went wrong, in words for a person; a bug of ours is logged."""
    if isinstance(error, RedisAway):
        return session_problem()
    problem = problem_of(error)
    if problem is None:
        log.error("request.crashed", exc_info=error)
        return bug()
    return problem


def _outcome_of(error: Exception) -> str:
    if isinstance(error, web.HTTPRedirection):
        return "done"
    if isinstance(error, RedisAway):
        return session_problem().code
    problem = problem_of(error)
    return problem.code if problem else "crashed"


def _as_sent(visitor: Visitor, form: MultiDictProxy[Any]) -> Visitor:
    """The project is the one that the form's page showed: another tab may have chosen another one since."""
    if form.get(CSRF_FIELD) != visitor.session.csrf:
        raise Problem(403, "bad_token", "This form is of another session. Go back, load the page, send it again.")
    return _looking_at(visitor, str(form.get(PROJECT_FIELD, visitor.project)))


def _looking_at(visitor: Visitor, project: str) -> Visitor:
    if project not in visitor.projects:
        raise Problem(404, "not_found", "There is no such project, or it is not one of yours.")
    return replace(visitor, project=project)


async def _form(request: web.Request) -> MultiDictProxy[Any]:
    """Raises: Problem (400, 408, 413)."""
    try:
        return await in_time(request.post())
    except (ValueError, HttpProcessingError) as error:  # no UTF-8, or a multipart that is none
        raise Problem(400, "bad_form", "The form cannot be read. Load the page again, and send it.") from error


def _refuse_other_sites(request: web.Request) -> None:
    """Only our own pages may send forms. Browsers say which site a request comes from; who says nothing is none."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        is_ours = origin is not None and origin.partition("://")[2] == request.host
    if not is_ours:
        raise Problem(403, "cross_site", "This form was sent from another site. Open the console, and do it there.")


def _to_login(request: web.Request) -> Exception:
    if request.method != "GET" or "HX-Request" in request.headers:
        headers: Mapping[str, str] = {"HX-Redirect": f"{ROOT}/login"} if "HX-Request" in request.headers else {}
        detail = "You are not logged in, or no longer. Log in, and do it again; nothing was changed."
        return Problem(401, "not_logged_in", detail, headers=headers)
    return web.HTTPSeeOther(str(URL(f"{ROOT}/login").with_query(next=str(request.rel_url))))


def _lacks(role: Role) -> Problem:
    article = "a" if role == "viewer" else "an"
    return Problem(403, "forbidden", f"Only {article} {role} may do that. An admin can change your role under Users.")


def _first(projects: list[str]) -> str:
    return BOOTSTRAP_PROJECT if BOOTSTRAP_PROJECT in projects or not projects else projects[0]
