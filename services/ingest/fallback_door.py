"""`POST /fallback`: puts a text of the client's own straight on the fallback queue, for the next digest."""

import re
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock
from libs.common.contracts import Notice, encode
from libs.common.ids import derived_id, new_id
from libs.common.topology import FALLBACK_ENTRY
from services.ingest.bodies import whole
from services.ingest.creation import this_millisecond
from services.ingest.creator import Publishes
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.idempotency import idempotency_key
from services.ingest.problems import FieldError, invalid, malformed, unsupported_media_type
from services.ingest.requests import names_of, read_json

DEFAULT_SUBJECT = "Fallback"
DEFAULT_MESSAGE = "A request has been sent via fallback API"
SUBJECT_CHARS_MAX = 200
MESSAGE_CHARS_MAX = 10_000
ONE_LINE = re.compile(r"[^\x00-\x1f]*")

log = structlog.get_logger(__name__)


class NewNotice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    subject: str = DEFAULT_SUBJECT
    message: str = DEFAULT_MESSAGE


class NoticeTaken(msgspec.Struct, frozen=True):
    id: UUID


_decode = msgspec.json.Decoder(NewNotice).decode


class FallbackDoor:
    def __init__(self, publisher: Publishes, clock: Clock) -> None:
        self._publisher = publisher
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="POST",
                path="/fallback",
                handler=self.notify,
                scope="tasks:write",
                summary="Put a text into the next digest",
                takes={JSON: NewNotice, "text/plain": str},
                may_be_empty=True,
                headers=("Idempotency-Key",),
                gives={202: NoticeTaken},
                problems=(400, 408, 413, 415, 422, 503),
            )
        ]

    async def notify(self, request: web.Request) -> web.Response:
        """202 after the broker's confirm."""
        project = caller_of(request).project
        new = _read(request, await whole(request))
        _check(new)
        key = idempotency_key(request)
        notice = Notice(
            id=derived_id(project, key, "notice") if key else new_id(),
            project=project,
            created_at=this_millisecond(self._clock.now()),
            subject=new.subject,
            message=new.message,
        )
        await self._publisher.publish(FALLBACK_ENTRY, encode(notice))
        log.info("notice.created", notice_id=str(notice.id))
        return json_response(NoticeTaken(id=notice.id), status=202)


def _read(request: web.Request, raw: bytes) -> NewNotice:
    if not raw.strip():
        return NewNotice()
    match request.content_type:
        case "application/json":
            return read_json(raw, _decode, names_of(NewNotice))
        case "text/plain":
            return NewNotice(message=_text(raw))
        case _:
            raise unsupported_media_type("application/json or text/plain")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise malformed(f"The body is not UTF-8 at byte {error.start}") from error


def _check(new: NewNotice) -> None:
    limits = {"/subject": (new.subject, SUBJECT_CHARS_MAX), "/message": (new.message, MESSAGE_CHARS_MAX)}
    errors = [
        FieldError(pointer, "out_of_range", f"has {len(text)} characters; give 1 to {most}, or leave it out")
        for pointer, (text, most) in limits.items()
        if not 1 <= len(text) <= most
    ]
    if not ONE_LINE.fullmatch(new.subject):
        errors.append(FieldError("/subject", "bad_value", "contains a line break or control character; remove it"))
    if errors:
        raise invalid(errors)
