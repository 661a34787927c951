"""One-time links: what the first admin is made with, and what sets the password of who was invited or forgot theirs.

To look at one does not use it up: programs that preview links do. Of two who use one at once, one wins.
"""

from collections.abc import Mapping

from aiohttp import web

from libs.common.clock import Clock
from libs.common.ids import new_id
from services.ingest.console.account import new_password_faults
from services.ingest.console.forms import field_of, secret_of
from services.ingest.console.guard import Guard, audit_note
from services.ingest.console.login import arrival, begin, too_often
from services.ingest.console.page import Page
from services.ingest.console.passwords import Busy, Passwords
from services.ingest.console.render import render
from services.ingest.console.user_text import link_digest, name_fault, name_of
from services.ingest.problems import Problem
from services.ingest.store_users import ConsoleUser, NewUser, UserStore


class LinkPages:
    def __init__(self, guard: Guard, users: UserStore, passwords: Passwords, clock: Clock) -> None:
        self._guard = guard
        self._users = users
        self._passwords = passwords
        self._clock = clock

    def pages(self) -> list[Page]:
        path = "/link/{token}"
        return [
            Page(method="GET", path=path, handler=self.show, role=None),
            Page(method="POST", path=path, handler=self.use, role=None, action="link.use", gate=self.check_works),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        return await _form(request, await self._whose(request))

    async def check_works(self, request: web.Request) -> None:
        """Raises: Problem (410)."""
        await self._whose(request)

    async def use(self, request: web.Request) -> web.StreamResponse:
        owner = await self._whose(request)
        name = name_of(field_of(request, "name")) if owner is None else owner.name
        faults = _faults(request, name)
        if faults:
            audit_note(request, owner.name if owner else None).outcome = "refused"
            return await _form(request, owner, faults, name)
        user = await self._redeemed(request, owner, name)
        audit_note(request, user.name, **({} if owner else {"role": "admin, the first user"})).actor = user.name
        response = web.Response(status=303, headers={"Location": arrival()})
        await begin(self._guard, request, response, user)
        return response

    async def _whose(self, request: web.Request) -> ConsoleUser | None:
        """Whose password it sets; None for whoever becomes the first admin. Raises: Problem (410)."""
        digest, now = link_digest(request.match_info["token"]), self._clock.now()
        owner = await self._users.user_of_link(digest, now)
        if owner is None and not await self._users.is_first_link(digest, now):
            raise _used_up()
        return owner

    async def _redeemed(self, request: web.Request, owner: ConsoleUser | None, name: str) -> ConsoleUser:
        """Raises: Problem (410, 429)."""
        digest, now = link_digest(request.match_info["token"]), self._clock.now()
        try:
            hashed = await self._passwords.hashed(secret_of(request, "new"))
        except Busy:
            raise too_often(1) from None
        if owner is not None:
            user = await self._users.redeem(digest, hashed, now)
        else:
            first = NewUser(new_id(), name, "admin", (), hashed)
            user = await self._users.by_name(name) if await self._users.redeem_first(digest, first, now) else None
        if user is None:
            raise _used_up()
        return user


def _faults(request: web.Request, name: str) -> dict[str, str]:
    fault = name_fault(name)
    return ({"name": fault} if fault else {}) | new_password_faults(request, name)


async def _form(
    request: web.Request, owner: ConsoleUser | None, faults: Mapping[str, str] | None = None, name: str = ""
) -> web.Response:
    status = 422 if faults else 200
    return await render(request, "link.html", status=status, owner=owner, faults=faults or {}, name=name)


def _used_up() -> Problem:
    return Problem(
        410,
        "link_used_up",
        "This link does not work any more: it has been used, replaced by a newer one, or is older than 24 hours. Ask an"
        " admin for a new one; whoever runs Carillon makes one with python -m services.ingest.users link.",
    )
