"""One row of the console: what serves it, and who may ask for it. The application and its tests are made from them."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args
from uuid import UUID

from aiohttp import web

from services.ingest.console.sessions import Session

Role = Literal["viewer", "operator", "admin"]
"""Each may what the one before may, and more: look; put right what is called; say who may."""
ROLES: tuple[Role, ...] = get_args(Role)

ROOT = "/console"
CSRF_FIELD = "csrf"
PROJECT_FIELD = "of_project"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Gate = Callable[[web.Request], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Who is looking, and at which project. `projects`: those that may be chosen, by name."""

    user_id: UUID
    name: str
    role: Role
    project: str
    projects: tuple[str, ...]
    sees_all: bool
    session: Session

    def may(self, role: Role) -> bool:
        return is_at_least(self.role, role)


VISITOR = web.RequestKey("visitor", Visitor)


@dataclass(frozen=True, kw_only=True)
class Page:
    """`path` is below /console. `role`: who may; with None, whoever comes.

    What changes something is no GET, and has an `action`: its name in the audit log. `handler` finds its visitor by
    `visitor_of`, and what was posted by `posted`. `gate` may refuse it before anything is written
    down: without a session somebody could fill the log.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    role: Role | None
    action: str | None = None
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if (self.method == "GET") != (self.action is None):
            raise ValueError(f"{self.method} {self.path}: a page that changes something has an action, and no other")


class Pages(Protocol):
    def pages(self) -> list[Page]: ...


def visitor_of(request: web.Request) -> Visitor:
    return request[VISITOR]


def is_at_least(role: Role, wanted: Role) -> bool:
    return ROLES.index(role) >= ROLES.index(wanted)
