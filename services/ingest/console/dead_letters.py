"""What no service could process: by cause, message by message, and the two ways out: back to where it failed, or gone.

Whoever may see all projects sees the messages of no project as well. One or some of a page are done in the request; a
whole cause is work for `clearing.py`, because it may have thousands of messages, and can be left alone.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from aiohttp import web

from libs.common.clock import Clock, ceil_to_ms
from libs.common.ids import new_id
from libs.common.publisher import NotPublished
from libs.common.topology import REPUBLISH
from services.ingest.console.forms import back, field_of, posted
from services.ingest.console.guard import audit_note
from services.ingest.console.page import Page, Visitor, visitor_of
from services.ingest.console.parked_body import parked_body
from services.ingest.console.redaction import is_secret
from services.ingest.console.render import render
from services.ingest.console.visible import one_line
from services.ingest.cursor import seal, time_bytes, time_of, unseal
from services.ingest.parked_door import REASON_CHARS_MAX
from services.ingest.problems import Problem, not_found
from services.ingest.redelivery import Republishes, send_back
from services.ingest.store_dead_letters import (
    CAUSES_MAX,
    Cause,
    Clearing,
    ClearingAction,
    ClearingStore,
    DeadLetterStore,
    cause_digest,
)
from services.ingest.store_parked import DeadLetter, ParkedPlace

PAGE = 50
SELECTED_MAX = 100
OBJECT_CHARS_MAX = 200
_TIME_BYTES = 8
_headers = msgspec.json.Decoder(dict[str, Any]).decode
_WHY = f"write why, in 1 to {REASON_CHARS_MAX} characters: the audit log keeps it"


class Sent(NamedTuple):
    """`refused`: nobody takes them back. `is_held`: the broker did not confirm, the others were not tried."""

    done: int
    refused: int = 0
    is_held: bool = False


class DeadLetterPages:
    def __init__(
        self, letters: DeadLetterStore, clearings: ClearingStore, publisher: Republishes, clock: Clock
    ) -> None:
        self._letters = letters
        self._clearings = clearings
        self._publisher = publisher
        self._clock = clock

    def pages(self) -> list[Page]:
        top, of_cause = "/dead-letters", "/dead-letters/cause/{digest}"
        return [
            Page(method="GET", path=top, handler=self.index, role="viewer"),
            Page(method="GET", path=of_cause, handler=self.cause, role="viewer"),
            Page(method="GET", path=f"{top}/message", handler=self.message, role="viewer"),
            Page(method="POST", path=f"{top}/redrive", handler=self.redrive, role="operator", action="parked.redrive"),
            Page(method="POST", path=f"{top}/drop", handler=self.drop, role="operator", action="parked.drop"),
            Page(
                method="POST",
                path=f"{of_cause}/redrive",
                handler=self.redrive_cause,
                role="operator",
                action="parked.redrive",
            ),
            Page(
                method="POST", path=f"{of_cause}/drop", handler=self.drop_cause, role="operator", action="parked.drop"
            ),
            Page(method="GET", path=f"{top}/clearing/{{id}}", handler=self.clearing, role="viewer"),
        ]

    async def index(self, request: web.Request) -> web.StreamResponse:
        visitor = visitor_of(request)
        causes = await self._letters.causes(visitor.project, sees_nobodys=visitor.sees_all)
        return await render(
            request,
            "dead_letters.html",
            causes=causes[:CAUSES_MAX],
            has_more=len(causes) > CAUSES_MAX,
            clearings=await self._clearings.under_way(visitor.project, sees_nobodys=visitor.sees_all),
        )

    async def cause(self, request: web.Request) -> web.StreamResponse:
        return await self._cause_page(request)

    async def message(self, request: web.Request) -> web.StreamResponse:
        return await self._message_page(request, request.query.get("id", ""))

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        ids, reason = _chosen(request), _reason(request)
        if reason is None or not ids:
            return await self._asked_again(request, ids, has_reason=reason is not None)
        sent = await self._send_back(visitor_of(request), ids)
        audit_note(request, done=sent.done, refused=sent.refused)
        return await self._afterwards(request, _redriven(sent), is_well=not sent.refused and not sent.is_held)

    async def drop(self, request: web.Request) -> web.StreamResponse:
        visitor, ids, reason = visitor_of(request), _chosen(request), _reason(request)
        if reason is None or not ids:
            return await self._asked_again(request, ids, has_reason=reason is not None)
        done = await self._letters.drop(visitor.project, ids, sees_nobodys=visitor.sees_all)
        audit_note(request, done=done)
        return await self._afterwards(request, f"Dropped {_messages(done)}.", is_well=True)

    async def redrive_cause(self, request: web.Request) -> web.StreamResponse:
        return await self._clear(request, "redrive")

    async def drop_cause(self, request: web.Request) -> web.StreamResponse:
        return await self._clear(request, "drop")

    async def clearing(self, request: web.Request) -> web.StreamResponse:
        visitor = visitor_of(request)
        try:
            id_ = UUID(request.match_info["id"])
        except ValueError:
            raise not_found("There is no such work") from None
        clearing = await self._clearings.show(visitor.project, id_, sees_nobodys=visitor.sees_all)
        if clearing is None:
            raise not_found("There is no such work")
        return await render(request, "clearing.html", clearing=clearing)

    async def _clear(self, request: web.Request, action: ClearingAction) -> web.StreamResponse:
        visitor, reason = visitor_of(request), _reason(request)
        owner = _owner(visitor, is_nobodys=field_of(request, "nobodys") == "yes")
        found = await self._found(owner, request.match_info["digest"])
        cause = one_line(f"{found.origin}: {found.cause}")[:OBJECT_CHARS_MAX]
        audit_note(request, cause, cause=found.digest, matched=found.messages)
        if reason is None:
            return await self._cause_page(request, status=422, fault=_WHY, is_nobodys=found.is_nobodys)
        clearing = self._new_clearing(request, action, owner, found, reason)
        await self._clearings.add(clearing)
        audit_note(request, clearing=str(clearing.id))
        return await back(
            request, f"/dead-letters/clearing/{clearing.id}", told="Started. It goes on without this page."
        )

    def _new_clearing(
        self, request: web.Request, action: ClearingAction, owner: str | None, found: Cause, reason: str
    ) -> Clearing:
        """`clearing`: the id that the page made, so that a form sent twice is one."""
        try:
            id_ = UUID(field_of(request, "clearing"))
        except ValueError:
            id_ = new_id()
        return Clearing(
            id_,
            owner,
            action,
            found.digest,
            found.origin,
            found.cause,
            reason,
            found.messages,
            ceil_to_ms(self._clock.now()),
            f"user:{visitor_of(request).name}",
        )

    async def _send_back(self, visitor: Visitor, ids: Sequence[str]) -> Sent:
        done = refused = 0
        for id_ in ids:
            letter = await self._letters.show(visitor.project, id_, sees_nobodys=visitor.sees_all)
            if letter is None:
                continue  # somebody else was quicker
            try:
                await send_back(self._publisher, letter)
            except Problem:
                refused += 1
                continue
            except NotPublished:
                return Sent(done, refused, is_held=True)
            await self._letters.drop(visitor.project, [id_], sees_nobodys=visitor.sees_all)
            done += 1
        return Sent(done, refused)

    async def _cause_page(
        self,
        request: web.Request,
        *,
        status: int = 200,
        fault: str | None = None,
        is_nobodys: bool | None = None,
        digest: str | None = None,
        chosen: Sequence[str] = (),
    ) -> web.Response:
        wants_nobodys = request.query.get("nobodys") == "yes" if is_nobodys is None else is_nobodys
        owner = _owner(visitor_of(request), is_nobodys=wants_nobodys)
        found = await self._found(owner, digest or request.match_info["digest"])
        scope = f"parked {owner} {found.digest}".encode()
        cursor = request.query.get("cursor")
        before = None if cursor is None else _place(unseal(cursor, scope))
        letters = await self._letters.page(owner, found.digest, before, PAGE + 1)
        next_cursor = None
        if len(letters) > PAGE:
            last = letters[PAGE - 1]
            next_cursor = seal(time_bytes(last.parked_at) + last.message_id.encode(), scope)
        return await render(
            request,
            "dead_letter_cause.html",
            status=status,
            found=found,
            letters=letters[:PAGE],
            next_cursor=next_cursor,
            is_taken_back=found.origin in REPUBLISH,
            fault=fault,
            chosen=chosen,
            typed=one_line(field_of(request, "reason")) if request.method == "POST" else "",
            clearing_id=new_id(),
            reason_max=REASON_CHARS_MAX,
        )

    async def _message_page(
        self, request: web.Request, id_: str, *, status: int = 200, fault: str | None = None
    ) -> web.Response:
        visitor = visitor_of(request)
        letter = None
        if "\0" not in id_:
            letter = await self._letters.show(visitor.project, id_, sees_nobodys=visitor.sees_all)
        if letter is None:
            raise not_found("There is no such message (any more)")
        return await render(
            request,
            "dead_letter.html",
            status=status,
            letter=letter,
            headers=_header_lines(letter),
            body=parked_body(letter.body),
            is_taken_back=letter.origin in REPUBLISH,
            digest=cause_digest(letter.origin, letter.cause),
            fault=fault,
            typed=one_line(field_of(request, "reason")) if request.method == "POST" else "",
            reason_max=REASON_CHARS_MAX,
        )

    async def _found(self, owner: str | None, digest: str) -> Cause:
        found = await self._letters.cause(owner, digest) if digest.isalnum() else None
        if found is None:
            raise not_found("Nothing is parked for this cause (any more)")
        return found

    async def _asked_again(self, request: web.Request, ids: Sequence[str], *, has_reason: bool) -> web.Response:
        """The page that the form stood on, with what is missing."""
        fault = "choose at least one message" if has_reason else _WHY
        digest = field_of(request, "digest")
        if digest:
            is_nobodys = field_of(request, "nobodys") == "yes"
            return await self._cause_page(
                request, status=422, fault=fault, is_nobodys=is_nobodys, digest=digest, chosen=ids
            )
        return await self._message_page(request, ids[0] if ids else "", status=422, fault=fault)

    async def _afterwards(self, request: web.Request, told: str, *, is_well: bool) -> web.Response:
        """To the cause, while anything is left of it."""
        digest, is_nobodys = field_of(request, "digest"), field_of(request, "nobodys") == "yes"
        owner = _owner(visitor_of(request), is_nobodys=is_nobodys)
        left = await self._letters.cause(owner, digest) if digest.isalnum() else None
        path = "/dead-letters" if left is None else cause_path(left)
        return await back(request, path, told=told, kind="done" if is_well else "failed")


def cause_path(cause: Cause) -> str:
    return f"/dead-letters/cause/{cause.digest}{'?nobodys=yes' if cause.is_nobodys else ''}"


def _owner(visitor: Visitor, *, is_nobodys: bool) -> str | None:
    """Raises: Problem (404)."""
    if is_nobodys and not visitor.sees_all:
        raise not_found("Nothing is parked for this cause (any more)")
    return None if is_nobodys else visitor.project


def _chosen(request: web.Request) -> list[str]:
    given = [id_ for id_ in posted(request).getall("id", []) if isinstance(id_, str) and "\0" not in id_]
    ids = list(dict.fromkeys(given))[:SELECTED_MAX]
    audit_note(request, one_line(ids[0]) if len(ids) == 1 else f"{len(ids)} messages", ids=ids)
    return ids


def _reason(request: web.Request) -> str | None:
    reason = one_line(field_of(request, "reason"))
    audit_note(request, reason=reason[:REASON_CHARS_MAX])
    return reason if 1 <= len(reason) <= REASON_CHARS_MAX else None


def _redriven(sent: Sent) -> str:
    told = f"{_messages(sent.done)} went back to where they failed." if sent.done != 1 else "1 message went back."
    if sent.refused:
        told += f" {_messages(sent.refused)} cannot go back: their origin or body is none that a queue takes."
    if sent.is_held:
        told += " The message broker did not confirm the next one: it and those after it are still here."
    return told


def _messages(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _place(raw: bytes) -> ParkedPlace:
    return ParkedPlace(time_of(raw), raw[_TIME_BYTES:].decode())


def _header_lines(letter: DeadLetter) -> list[tuple[str, str | None]]:
    """The message's own. None stands for a value that is secret by its name."""
    return [
        (one_line(name), None if is_secret(name) else one_line(value if isinstance(value, str) else str(value)))
        for name, value in _headers(letter.headers).items()
    ]
