"""The way in and out: log-in, log-out, and whether the browser kept the cookie.

An unknown user, a wrong password and a disabled user are answered alike, and as late.
"""

import math

from aiohttp import web
from yarl import URL

from libs.common.clock import Clock
from services.ingest.console.forms import field_of, secret_of
from services.ingest.console.guard import Cookie, Guard, audit_note
from services.ingest.console.page import ROOT, Page, visitor_of
from services.ingest.console.passwords import Busy, Passwords
from services.ingest.console.render import render
from services.ingest.console.throttle import Throttle
from services.ingest.console.user_text import is_name, name_of
from services.ingest.problems import Problem
from services.ingest.store_users import ConsoleUser, UserStore

_TOLD = {"everywhere": "You are logged out, everywhere.", "out": "You are logged out."}


class LoginPages:
    def __init__(self, guard: Guard, users: UserStore, passwords: Passwords, throttle: Throttle, clock: Clock) -> None:
        self._guard = guard
        self._users = users
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock
        self._is_empty = True

    def pages(self) -> list[Page]:
        return [
            Page(method="GET", path="/login", handler=self.show, role=None),
            Page(method="POST", path="/login", handler=self.log_in, role=None, action="login", gate=self.wait_a_turn),
            Page(method="GET", path="/login/done", handler=self.arrive, role=None),
            Page(method="POST", path="/logout", handler=self.log_out, role="viewer", action="logout"),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        next_ = _next(request.query.get("next", ""))
        if await self._guard.visitor(request) is not None:
            raise web.HTTPSeeOther(next_)
        return await self._form(request, next_, told=_TOLD.get(request.query.get("told", ""), ""))

    async def wait_a_turn(self, request: web.Request) -> None:
        """Count the try. Raises: Problem (429), whether there is such a user or not."""
        wait_s = await self._throttle.attempt(name_of(field_of(request, "name")), request.remote or "")
        if wait_s:
            raise too_often(wait_s)

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        next_, name = _next(field_of(request, "next")), name_of(field_of(request, "name"))
        user = await self._proven(name, secret_of(request, "password"))
        if user is None:
            audit_note(request).outcome = "refused"
            fault = "The name or the password is wrong, or the user is disabled."
            return await self._form(request, next_, fault=fault, name=name, status=401)
        audit_note(request, user.name).actor = user.name
        await self._throttle.succeeded(name, request.remote or "")
        response = web.Response(status=303, headers={"Location": arrival(next_)})
        await begin(self._guard, request, response, user)
        await self._users.seen(user.id, self._clock.now())
        return response

    async def arrive(self, request: web.Request) -> web.StreamResponse:
        """A log-in leads here, and on when the cookie came back."""
        next_ = _next(request.query.get("next", ""))
        if await self._guard.visitor(request) is not None:
            raise web.HTTPSeeOther(next_)
        if self._guard.cookie.name in request.cookies:
            raise web.HTTPSeeOther(str(URL(f"{ROOT}/login").with_query(next=next_)))
        return await self._form(request, next_, is_lost=True)

    async def log_out(self, request: web.Request) -> web.StreamResponse:
        audit_note(request, visitor_of(request).name)
        await self._guard.sessions.end(visitor_of(request).session)
        response = web.Response(status=303, headers={"Location": f"{ROOT}/login?told=out"})
        self._guard.cookie.clear(response)
        return response

    async def _proven(self, name: str, password: str) -> ConsoleUser | None:
        """Who has that password. Raises: Problem (429)."""
        user = await self._users.by_name(name) if is_name(name) else None
        kept = user.password if user is not None and user.disabled_at is None else None
        try:
            checked = await self._passwords.check(kept, password)
        except Busy:
            raise too_often(1) from None
        if user is None or kept is None or not checked.is_right:
            return None
        if checked.better is not None:
            await self._users.rehash(user.id, kept, checked.better)
        return user

    async def _form(
        self,
        request: web.Request,
        next_: str,
        *,
        told: str = "",
        fault: str = "",
        name: str = "",
        is_lost: bool = False,
        status: int = 200,
    ) -> web.Response:
        self._is_empty = self._is_empty and await self._users.is_empty()  # it never becomes empty again
        return await render(
            request,
            "login.html",
            status=status,
            next=next_,
            told=told,
            fault=fault,
            name=name,
            is_lost=is_lost,
            is_secure=self._guard.cookie.is_secure,
            is_empty=self._is_empty,
            host=request.host,
        )


async def begin(guard: Guard, request: web.Request, response: web.StreamResponse, user: ConsoleUser) -> str:
    """A new session in place of the one that the browser came with, if it did. Gives its token."""
    cookie: Cookie = guard.cookie
    before = request.cookies.get(cookie.name)
    session = await guard.sessions.find(before, is_use=False) if before else None
    if session is not None:
        await guard.sessions.end(session)
    token = await guard.sessions.begin(user.id, user.epoch)
    cookie.set(response, token)
    return token


def arrival(next_: str = ROOT) -> str:
    return str(URL(f"{ROOT}/login/done").with_query(next=next_))


def too_often(wait_s: float) -> Problem:
    seconds = math.ceil(wait_s)
    detail = f"Too many tries. Wait {seconds} {'second' if seconds == 1 else 'seconds'}, and try once more."
    return Problem(429, "too_many_tries", detail, headers={"Retry-After": str(seconds)})


def _next(text: str) -> str:
    """A page of the console, whatever a link has asked for."""
    try:
        url = URL(text)
    except ValueError:
        return ROOT
    is_ours = not url.absolute and (url.path == ROOT or url.path.startswith(ROOT + "/")) and ".." not in url.parts
    return str(url) if is_ours and not url.path.startswith(f"{ROOT}/log") else ROOT
