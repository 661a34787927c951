"""`/v1/parked`: the messages that no service could process. Look at one, send it back to where it failed, or drop it.

Of a task's message its project sees all; what says no project is shown to the project of the bootstrap key.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Protocol
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import format_utc
from services.ingest.cursor import seal, time_bytes, time_of, unseal
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.problems import bad_query, not_found
from services.ingest.redelivery import Republishes, send_back
from services.ingest.requests import json_body, names_of, read_json, read_query
from services.ingest.store_parked import DeadLetter, ParkedPlace

LIMIT_MAX = 250
REASON_CHARS_MAX = 500
_TIME_BYTES = 8

log = structlog.get_logger(__name__)


class ParkedQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`origin`: the queue whose consumer gave up."""

    origin: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^[^\\x00-\\x1f\\x7f]*$"})] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: str | None = None


class ParkedView(msgspec.Struct, frozen=True, kw_only=True):
    """`cause` is why, `origin` the queue whose consumer gave up, `crashes` how often it had tried."""

    id: str
    parked_at: str
    origin: str
    cause: str
    crashes: int
    project: str | None
    task_id: UUID | None


class ParkedMessageView(ParkedView, frozen=True, kw_only=True):
    """`headers` are those of the message; the body is text where it is UTF-8."""

    headers: dict[str, Any]
    body: str | msgspec.UnsetType = msgspec.UNSET
    body_base64: str | msgspec.UnsetType = msgspec.UNSET


class ParkedList(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    data: list[ParkedView]
    next_cursor: str | None


class ParkedRedrive(msgspec.Struct, frozen=True, kw_only=True):
    """How many items went back to the queue `origin`."""

    id: str
    origin: str
    items: int


class DropParked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The reason stands in the log, with the key."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=REASON_CHARS_MAX)]


class KeepsParked(Protocol):
    """`ParkedStore`."""

    async def page(
        self, project: str, origin: str | None, before: ParkedPlace | None, limit: int
    ) -> Sequence[DeadLetter]: ...

    async def show(self, project: str, message_id: str) -> DeadLetter | None: ...

    async def drop(self, project: str, message_id: str) -> bool: ...


_decode = msgspec.json.Decoder(DropParked).decode
_headers = msgspec.json.Decoder(dict[str, Any]).decode


class ParkedDoor:
    def __init__(self, store: KeepsParked, publisher: Republishes) -> None:
        self._store = store
        self._publisher = publisher

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path="/v1/parked",
                handler=self.list,
                scope="tasks:read",
                summary="Messages that nobody could process, newest first",
                query=ParkedQuery,
                gives={200: ParkedList},
                problems=(400, 503),
            ),
            Endpoint(
                method="GET",
                path="/v1/parked/{id}",
                handler=self.show,
                scope="tasks:read",
                summary="A parked message, its headers and body included",
                gives={200: ParkedMessageView},
                problems=(404, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/parked/{id}/redrive",
                handler=self.redrive,
                scope="tasks:write",
                summary="Send a parked message back to the queue it came from",
                gives={200: ParkedRedrive},
                problems=(404, 409, 503),
            ),
            Endpoint(
                method="DELETE",
                path="/v1/parked/{id}",
                handler=self.drop,
                scope="tasks:write",
                summary="Drop a parked message for good, with a reason",
                takes={JSON: DropParked},
                gives={204: None},
                problems=(400, 404, 408, 413, 415, 422, 503),
            ),
        ]

    async def list(self, request: web.Request) -> web.Response:
        project, query = caller_of(request).project, read_query(request, ParkedQuery)
        if "\0" in (query.origin or "") or not (query.origin or "").isprintable():
            raise bad_query("origin", "it is no queue's name")
        scope = project.encode() + b"\0parked\0" + (query.origin or "").encode()
        before = None if query.cursor is None else _place(unseal(query.cursor, scope))
        found = await self._store.page(project, query.origin, before, query.limit + 1)
        cursor, links = None, {}
        if len(found) > query.limit:
            last = found[query.limit - 1]
            cursor = seal(time_bytes(last.parked_at) + last.message_id.encode(), scope)
            links = {"Link": f'<{request.rel_url.update_query(cursor=cursor)}>; rel="next"'}
        views = [ParkedView(**_told(letter)) for letter in found[: query.limit]]
        return json_response(ParkedList(data=views, next_cursor=cursor), headers=links)

    async def show(self, request: web.Request) -> web.Response:
        letter = await self._found(request)
        text = _as_text(letter.body)
        view = ParkedMessageView(
            **_told(letter),
            headers=_headers(letter.headers),
            body=msgspec.UNSET if text is None else text,
            body_base64=base64.b64encode(letter.body).decode() if text is None else msgspec.UNSET,
        )
        return json_response(view)

    async def redrive(self, request: web.Request) -> web.Response:
        letter = await self._found(request)
        items = await send_back(self._publisher, letter)
        await self._store.drop(caller_of(request).project, letter.message_id)
        log.info(
            "parked.redriven", message_id=letter.message_id, key_id=caller_of(request).key_id, origin=letter.origin
        )
        return json_response(ParkedRedrive(id=letter.message_id, origin=letter.origin, items=items))

    async def drop(self, request: web.Request) -> web.Response:
        caller = caller_of(request)
        reason = read_json(await json_body(request), _decode, names_of(DropParked)).reason
        letter = await self._found(request)
        await self._store.drop(caller.project, letter.message_id)
        log.warning("parked.dropped", message_id=letter.message_id, key_id=caller.key_id, reason=reason)
        return web.Response(status=204)

    async def _found(self, request: web.Request) -> DeadLetter:
        id_ = request.match_info["id"]
        letter = await self._store.show(caller_of(request).project, id_) if id_.isprintable() else None
        if letter is None:
            raise not_found("There is no parked message under this id")
        return letter


def _told(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.message_id,
        "parked_at": format_utc(letter.parked_at),
        "origin": letter.origin,
        "cause": letter.cause,
        "crashes": letter.crashes,
        "project": letter.project,
        "task_id": letter.task_id,
    }


def _place(raw: bytes) -> ParkedPlace:
    return ParkedPlace(time_of(raw), raw[_TIME_BYTES:].decode())


def _as_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None
