"""`POST /fallback`: puts a text of the client's own straight on the fallback queue, for the next digest."""

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock
from libs.common.contracts import Notice, encode
from libs.common.ids import derived_id, new_id
from libs.common.topology import FALLBACK_ENTRY
from services.ingest.auth import Keys
from services.ingest.creation import this_millisecond
from services.ingest.problems import FieldError, invalid, malformed, unsupported_media_type
from services.ingest.requests import field_error
from services.ingest.task_door import Publishes, idempotency_key

DEFAULT_SUBJECT = "Fallback"
DEFAULT_MESSAGE = "A request has been sent via fallback API"
SUBJECT_CHARS_MAX = 200
MESSAGE_CHARS_MAX = 10_000

log = structlog.get_logger(__name__)


class NewNotice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    subject: str = DEFAULT_SUBJECT
    message: str = DEFAULT_MESSAGE


_decode = msgspec.json.Decoder(NewNotice).decode


class FallbackDoor:
    def __init__(self, keys: Keys, publisher: Publishes, clock: Clock) -> None:
        self._keys = keys
        self._publisher = publisher
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/fallback", self.notify)]

    async def notify(self, request: web.Request) -> web.Response:
        """202 after the broker's confirm."""
        project = self._keys.project_of(request.headers.get("Authorization"))
        new = _read(request, await request.read())
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
        return web.Response(body=msgspec.json.encode({"id": notice.id}), status=202, content_type="application/json")


def _read(request: web.Request, raw: bytes) -> NewNotice:
    if not raw.strip():
        return NewNotice()
    try:
        raw.decode()
        match request.content_type:
            case "application/json":
                return _decode(raw)
            case "text/plain":
                return NewNotice(message=raw.decode())
            case _:
                raise unsupported_media_type("application/json or text/plain")
    except msgspec.ValidationError as error:
        raise invalid([field_error(str(error))]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"The body cannot be read: {error}") from error


def _check(new: NewNotice) -> None:
    limits = {"/subject": (new.subject, SUBJECT_CHARS_MAX), "/message": (new.message, MESSAGE_CHARS_MAX)}
    errors = [
        FieldError(pointer, "out_of_range", f"has {len(text)} characters; give 1 to {most}, or leave it out")
        for pointer, (text, most) in limits.items()
        if not 1 <= len(text) <= most
    ]
    if any(ord(character) < 32 for character in new.subject):
        errors.append(FieldError("/subject", "bad_value", "contains a line break or control character; remove it"))
    if errors:
        raise invalid(errors)
