"""The API keys of the project that is looked at. The text of a new one is shown on one page, once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, cast, get_args
from uuid import UUID

from aiohttp import web

from libs.common.clock import Clock, format_utc
from services.ingest.auth import ALL_SCOPES, Scope
from services.ingest.console.forms import back, field_of, posted
from services.ingest.console.guard import audit_note
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import render
from services.ingest.cursor import seal, unseal
from services.ingest.keyring import OVERLAP_S, Keyring, NewKey, project_error, status_of
from services.ingest.problems import FieldError, Problem, invalid, not_found
from services.ingest.store_keys import StoredKey

PAGE = 50
SCOPES: tuple[Scope, ...] = get_args(Scope)
LIFETIMES = (("", "never"), ("30", "in 30 days"), ("90", "in 90 days"), ("365", "in a year"))
"""Days, and how they are called."""
OVERLAPS = (("0", "ends now"), ("3600", "for an hour"), (f"{OVERLAP_S:.0f}", "for a day"), ("604800", "for a week"))
"""Seconds, and what the old key does for so long."""

_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


@dataclass(frozen=True)
class KeyForm:
    """What was typed."""

    project: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    days: str = ""
    per_s: str = ""
    burst: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)

    def new_key(self, now: datetime) -> NewKey:
        """Raises: Problem (422) for what is no number or no choice of ours; the rest is the keyring's to say."""
        error = project_error(self.project)
        errors = [error] if error else []
        per_s, burst = _number(self.per_s, "/per_s", errors), _number(self.burst, "/burst", errors)
        if self.days not in dict(LIFETIMES):
            errors.append(FieldError("/days", "bad_value", "is none of the choices"))
        if not set(self.scopes) <= ALL_SCOPES:
            errors.append(FieldError("/scopes", "bad_value", f"is none: choose from {', '.join(SCOPES)}"))
        if errors:
            raise invalid(errors)
        return NewKey(
            name=self.name,
            scopes=cast("tuple[Scope, ...]", self.scopes),
            expires_at=format_utc(now + timedelta(days=int(self.days))) if self.days else None,
            per_s=per_s,
            burst=None if burst is None else int(burst),
        )


class KeyRow(NamedTuple):
    key: StoredKey
    status: str


class KeyPages:
    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keyring = keyring
        self._clock = clock

    def pages(self) -> list[Page]:
        rotate, revoke = "/keys/{id}/rotate", "/keys/{id}/revoke"
        return [
            Page(method="GET", path="/keys", handler=self.list, role="admin"),
            Page(method="POST", path="/keys", handler=self.create, role="admin", action="key.create"),
            Page(method="POST", path=rotate, handler=self.rotate, role="admin", action="key.rotate"),
            Page(method="POST", path=revoke, handler=self.revoke, role="admin", action="key.revoke"),
        ]

    async def list(self, request: web.Request) -> web.StreamResponse:
        return await self._list(request, KeyForm(visitor_of(request).project))

    async def create(self, request: web.Request) -> web.StreamResponse:
        form = _form(request)
        audit_note(request, None, project=form.project[:80], scopes=form.scopes, name=form.name[:100])
        try:
            text, key = await self._keyring.create(form.project, form.new_key(self._clock.now()), ALL_SCOPES)
        except Problem as problem:
            if problem.status != 422:
                raise
            faults = {each.pointer.removeprefix("/"): each.detail for each in problem.errors}
            audit_note(request).outcome = problem.code
            return await self._list(request, KeyForm(**(vars(form) | {"faults": faults})))
        return await _made(request, text, key)

    async def rotate(self, request: web.Request) -> web.StreamResponse:
        id_, overlap = _id(request), field_of(request, "overlap_s")
        audit_note(request, str(id_))
        if overlap not in dict(OVERLAPS):
            raise invalid([FieldError("/overlap_s", "bad_value", "is none of the choices")])
        text, key = await self._keyring.rotate(visitor_of(request).project, id_, float(overlap), ALL_SCOPES)
        audit_note(request, new_key=str(key.id), overlap_s=float(overlap))
        return await _made(request, text, key)

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        id_ = _id(request)
        audit_note(request, str(id_))
        key = await self._keyring.revoke(visitor_of(request).project, id_)
        audit_note(request, name=key.name)
        return await back(request, "/keys", told=f"The key {key.name} is refused everywhere within two seconds.")

    async def _list(self, request: web.Request, form: KeyForm) -> web.StreamResponse:
        project, now = visitor_of(request).project, self._clock.now()
        scope, cursor = f"console keys {project}".encode(), request.query.get("cursor")
        after = None if cursor is None else UUID(bytes=unseal(cursor, scope))
        keys = await self._keyring.page(project, after, PAGE + 1)
        older = seal(keys[PAGE - 1].id.bytes, scope) if len(keys) > PAGE else None
        return await render(
            request,
            "keys.html",
            status=422 if form.faults else 200,
            rows=[KeyRow(key, status_of(key, now)) for key in keys[:PAGE]],
            older=older,
            is_first=after is None,
            form=form,
            scopes=SCOPES,
            lifetimes=LIFETIMES,
            overlaps=OVERLAPS,
        )


async def _made(request: web.Request, text: str, key: StoredKey) -> web.StreamResponse:
    """The only page that shows it."""
    audit_note(request, str(key.id), project=key.project)
    return await render(request, "key_made.html", text=text, key=key)


def _form(request: web.Request) -> KeyForm:
    name, days, per_s, burst = (field_of(request, each) for each in ("name", "days", "per_s", "burst"))
    scopes = tuple(dict.fromkeys(str(scope) for scope in posted(request).getall("scopes", ())))
    return KeyForm(field_of(request, "project"), name, scopes, days, per_s, burst)


def _id(request: web.Request) -> UUID:
    """Raises: Problem (404)."""
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        raise not_found("There is no such key") from None


def _number(text: str, pointer: str, errors: list[FieldError]) -> float | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        errors.append(FieldError(pointer, "bad_value", "is no number"))
        return None
    return float(text)
