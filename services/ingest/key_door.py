"""`/v1/keys`: the API keys of one's own project; the bootstrap key may name another one, which makes it exist."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from aiohttp import web

from libs.common.clock import Clock, format_utc
from services.ingest.auth import BOOTSTRAP_KEY_ID, Caller
from services.ingest.cursor import seal, unseal
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response, next_link
from services.ingest.keyring import OVERLAP_S, Keyring, NewKey, project_error, status_of
from services.ingest.problems import Problem, bad_query, invalid, not_found
from services.ingest.requests import json_body, names_of, optional_json_body, read_json, read_query
from services.ingest.store_keys import StoredKey

LIMIT_MAX = 250
OF_A_CHANGE = (400, 403, 404, 409, 413, 415, 422, 503)


class Rotate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For so long the old key works beside the new one: 0 to 2592000 seconds, 30 days."""

    overlap_s: float = OVERLAP_S


class KeyQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    project: str | None = None


class KeysQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: str | None = None
    project: str | None = None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """All of a key but its text. `last_used_at` is right to a minute."""

    id: UUID
    project: str
    name: str
    scopes: tuple[str, ...]
    status: Literal["active", "expired", "revoked"]
    per_s: float | None
    burst: int | None
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    replaced_by: UUID | None
    last_used_at: str | None


class MadeKey(KeyView, frozen=True, kw_only=True):
    """`key` is shown now and never again."""

    key: str


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    data: list[KeyView]
    next_cursor: str | None


_read_new = msgspec.json.Decoder(NewKey).decode
_read_rotate = msgspec.json.Decoder(Rotate).decode


class KeyDoor:
    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keyring = keyring
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path="/v1/keys",
                handler=self.list,
                scope="admin",
                summary="The keys of a project, without their text",
                query=KeysQuery,
                gives={200: KeyList},
                problems=(400, 403, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/keys",
                handler=self.create,
                scope="admin",
                summary="Make a key; its text is in this answer only",
                takes={JSON: NewKey},
                gives={201: MadeKey},
                problems=(400, 403, 409, 413, 415, 422, 503),
            ),
            Endpoint(
                method="GET",
                path="/v1/keys/{id}",
                handler=self.show,
                scope="admin",
                summary="A key, without its text",
                query=KeyQuery,
                gives={200: KeyView},
                problems=(400, 403, 404, 503),
            ),
            Endpoint(
                method="DELETE",
                path="/v1/keys/{id}",
                handler=self.revoke,
                scope="admin",
                summary="Revoke a key: it is refused everywhere within two seconds",
                query=KeyQuery,
                gives={200: KeyView},
                problems=(400, 403, 404, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/keys/{id}/rotate",
                handler=self.rotate,
                scope="admin",
                summary="A new key like this one, which works a while longer",
                takes={JSON: Rotate},
                may_be_empty=True,
                query=KeyQuery,
                gives={201: MadeKey},
                problems=OF_A_CHANGE,
            ),
        ]

    async def list(self, request: web.Request) -> web.Response:
        query = read_query(request, KeysQuery)
        project = _named_project(caller_of(request), query.project)
        scope = f"keys {project}".encode()
        after = None if query.cursor is None else UUID(bytes=unseal(query.cursor, scope))
        keys = await self._keyring.page(project, after, query.limit + 1)
        page, is_more = keys[: query.limit], len(keys) > query.limit
        now, next_cursor = self._clock.now(), seal(page[-1].id.bytes, scope) if is_more else None
        answer = KeyList(data=[_view(key, now) for key in page], next_cursor=next_cursor)
        return json_response(answer, headers=next_link(request, next_cursor))

    async def create(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        new = read_json(await json_body(request), _read_new, names_of(NewKey))
        if new.project is not None and (error := project_error(new.project)):
            raise invalid([error])
        project = _own_or_any(caller, new.project)
        text, key = await self._keyring.create(project, new, caller.scopes)
        return self._made(text, key)

    async def show(self, request: web.Request) -> web.Response:
        project = _named_project(caller_of(request), read_query(request, KeyQuery).project)
        return json_response(_view(await self._keyring.show(project, _id(request)), self._clock.now()))

    async def revoke(self, request: web.Request) -> web.Response:
        project = _named_project(caller_of(request), read_query(request, KeyQuery).project)
        key = await self._keyring.revoke(project, _id(request))
        return json_response(_view(key, self._clock.now()))

    async def rotate(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        project = _named_project(caller, read_query(request, KeyQuery).project)
        raw = await optional_json_body(request)
        asked = read_json(raw, _read_rotate, names_of(Rotate)) if raw.strip() else Rotate()
        text, key = await self._keyring.rotate(project, _id(request), asked.overlap_s, caller.scopes)
        return self._made(text, key)

    def _made(self, text: str, key: StoredKey) -> web.Response:
        made = MadeKey(**msgspec.structs.asdict(_view(key, self._clock.now())), key=text)
        return json_response(made, status=201, headers={"Location": f"/v1/keys/{key.id}", "Cache-Control": "no-store"})


def _view(key: StoredKey, now: datetime) -> KeyView:
    return KeyView(
        id=key.id,
        project=key.project,
        name=key.name,
        scopes=key.scopes,
        status=status_of(key, now),
        per_s=key.per_s,
        burst=key.burst,
        created_at=format_utc(key.created_at),
        expires_at=_time(key.expires_at),
        revoked_at=_time(key.revoked_at),
        replaced_by=key.replaced_by,
        last_used_at=_time(key.last_used_at),
    )


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)


def _named_project(caller: Caller, named: str | None) -> str:
    if named is not None and project_error(named):
        raise bad_query("project", "is no name of a project; write 1 to 64 of a-z, 0-9, - and _")
    return _own_or_any(caller, named)


def _own_or_any(caller: Caller, named: str | None) -> str:
    if named is None or named == caller.project:
        return caller.project
    if caller.key_id != BOOTSTRAP_KEY_ID:
        detail = "Only the bootstrap key may name another project. Leave project out, or use a key of that project."
        raise Problem(403, "forbidden", detail)
    return named


def _id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        raise not_found("There is no key under this id, which is no UUID") from None
