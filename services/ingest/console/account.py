"""One's own page: who one is, a new password, and the end of all one's sessions."""

from collections.abc import Mapping

from aiohttp import web

from libs.common.clock import Clock
from services.ingest.console.forms import secret_of
from services.ingest.console.guard import Guard, audit_note
from services.ingest.console.login import begin, too_often
from services.ingest.console.page import ROOT, Page, visitor_of
from services.ingest.console.passwords import Busy, Passwords, password_fault
from services.ingest.console.render import render
from services.ingest.console.sessions import Flash
from services.ingest.console.throttle import Throttle
from services.ingest.problems import Problem
from services.ingest.store_users import ConsoleUser, UserStore


class AccountPages:
    def __init__(self, guard: Guard, users: UserStore, passwords: Passwords, throttle: Throttle, clock: Clock) -> None:
        self._guard = guard
        self._users = users
        self._passwords = passwords
        self._throttle = throttle
        self._clock = clock

    def pages(self) -> list[Page]:
        to_password, to_end = "/account/password", "/account/logout-everywhere"
        return [
            Page(method="GET", path="/account", handler=self.show, role="viewer"),
            Page(method="POST", path=to_password, handler=self.change, role="viewer", action="password.change"),
            Page(method="POST", path=to_end, handler=self.end_all, role="viewer", action="logout.everywhere"),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await self._page(request)

    async def change(self, request: web.Request) -> web.StreamResponse:
        """The other sessions end; this one goes on under another cookie."""
        audit_note(request, visitor_of(request).name)
        faults = new_password_faults(request, visitor_of(request).name)
        if faults:
            return await self._page(request, faults)
        user = await self._myself(request)
        wait_s = await self._throttle.attempt(user.name, request.remote or "")
        if wait_s:
            raise too_often(wait_s)
        epoch = await self._changed(user, secret_of(request, "old"), secret_of(request, "new"))
        if epoch is None:
            return await self._page(request, {"old": "is not your password"})
        await self._throttle.succeeded(user.name, request.remote or "")
        return await self._go_on(request, user._replace(epoch=epoch))

    async def end_all(self, request: web.Request) -> web.StreamResponse:
        visitor = visitor_of(request)
        audit_note(request, visitor.name)
        await self._users.end_sessions(visitor.user_id, self._clock.now())
        await self._guard.sessions.end(visitor.session)
        response = web.Response(status=303, headers={"Location": f"{ROOT}/login?told=everywhere"})
        self._guard.cookie.clear(response)
        return response

    async def _changed(self, user: ConsoleUser, old: str, new: str) -> int | None:
        """The epoch from now on; None when `old` is not the password."""
        try:
            checked = await self._passwords.check(user.password, old)
            if not checked.is_right or user.password is None:
                return None
            hashed = await self._passwords.hashed(new)
        except Busy:
            raise too_often(1) from None
        return await self._users.set_password(user.id, user.password, hashed, self._clock.now())

    async def _go_on(self, request: web.Request, user: ConsoleUser) -> web.StreamResponse:
        response = web.Response(status=303, headers={"Location": f"{ROOT}/account"})
        token = await begin(self._guard, request, response, user)
        session = await self._guard.sessions.find(token)
        if session is not None:
            session.project = visitor_of(request).session.project
            told = "Your password is changed. Wherever else you were logged in, you are not any more."
            await self._guard.sessions.tell(session, Flash(told))
        return response

    async def _myself(self, request: web.Request) -> ConsoleUser:
        user = await self._users.by_id(visitor_of(request).user_id)
        if user is None:
            raise Problem(404, "not_found", "There is no such user.")
        return user

    async def _page(self, request: web.Request, faults: Mapping[str, str] | None = None) -> web.Response:
        user = await self._myself(request)
        return await render(request, "account.html", status=422 if faults else 200, user=user, faults=faults or {})


def new_password_faults(request: web.Request, name: str) -> dict[str, str]:
    """What is wrong with the fields `new` and `again`, by field."""
    new = secret_of(request, "new")
    if fault := password_fault(name, new):
        return {"new": fault}
    return {} if secret_of(request, "again") == new else {"again": "is not the same password"}
