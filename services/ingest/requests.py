"""What clients send: the JSON of `POST /v1/tasks`, and how bodies and queries are read; msgspec's words become ours.

What a shape cannot say (a URL without a host, a time without an offset) stands in `creation.py`.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import msgspec
from aiohttp import web

from services.ingest.bodies import whole
from services.ingest.json_names import lone_surrogates, repeated_names
from services.ingest.problems import FieldError, Problem, bad_query, escaped, invalid, malformed, unsupported_media_type

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`schedule_s`: seconds before each retry; null means the ladder of the installation."""

    schedule_s: tuple[float, ...] | None = None
    respect_retry_after: bool = True


class Expect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts as success: status classes (`2xx`) or codes (`204`), and a text that the body must contain."""

    status: tuple[str, ...] = ("2xx",)
    body_contains: str | None = None


class LocalTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a clock in `timezone` (an IANA name) shows when the task is due: `2027-03-28T02:30:00`."""

    at: str
    timezone: str


class Callbacks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """URLs that get the finished task, as a task of their own."""

    success: str | None = None
    failure: str | None = None


class TaskTemplate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to call, and what counts as an answer: a task without its times. At most one of the three bodies."""

    url: str
    method: Method = "POST"
    headers: dict[str, str] = {}
    # Raw keeps the client's bytes; `Raw | None` would refuse objects, so an absent body is an empty Raw.
    body: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    body_text: str | None = None
    body_base64: str | None = None
    content_type: str | None = None
    timeout_s: float = 15.0
    retry: Retry | None = None
    expect: Expect | None = None
    labels: dict[str, str] = {}
    callbacks: Callbacks | None = None


class NewTask(TaskTemplate, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task as a client asks for it: at most one of due_at, delay, local_time; none means now."""

    due_at: str | int | float | None = None
    delay: str | int | float | None = None
    local_time: LocalTime | None = None
    expires_at: str | int | float | None = None


class NewTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another time for a task that waits: exactly one of them."""

    due_at: str | int | float | None = None
    delay: str | int | float | None = None
    local_time: LocalTime | None = None


# The names that a struct knows, by the pointer to it.
Fields = Mapping[str, tuple[str, ...]]
_FIELDS: Fields = {
    "": NewTask.__struct_fields__,
    "/local_time": LocalTime.__struct_fields__,
    "/retry": Retry.__struct_fields__,
    "/expect": Expect.__struct_fields__,
    "/callbacks": Callbacks.__struct_fields__,
}
_AT = re.compile(r"(?s)(.*) - at `\$(.*)`")
_UNKNOWN = re.compile(r"(?s)Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_INDEX = re.compile(r"\[(\d+)\]")

_decode = msgspec.json.Decoder(NewTask).decode

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)


def read_task(raw: bytes) -> NewTask:
    """Raises: Problem, 400 when it is no JSON and 422 when it is no task."""
    return read_json(raw, _decode)


def read_json(raw: bytes, decode: Callable[[bytes], T], fields: Fields = _FIELDS) -> T:
    """Raises: Problem, 400 when it is no JSON and 422 when `decode` refuses what it says, which has `fields`."""
    try:
        text = raw.decode()  # msgspec looks at the bytes of a Raw no closer than its brackets
        value = decode(raw)
        errors = repeated_names(text)
    except msgspec.ValidationError as error:
        raise invalid([field_error(str(error), fields)]) from error
    except msgspec.DecodeError as error:
        raise _unreadable(raw, error) from error
    except UnicodeDecodeError as error:
        raise malformed(f"The body is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise malformed(f"The body cannot be read: {error}") from error
    except RecursionError as error:
        raise malformed("The body is nested too deep") from error
    if errors:
        raise invalid(errors)
    return value


def _unreadable(raw: bytes, error: msgspec.DecodeError) -> Problem:
    """msgspec calls half of a surrogate pair "truncated", at no place: that one we look for."""
    try:
        errors = lone_surrogates(raw.decode())
    except (json.JSONDecodeError, RecursionError):
        errors = []
    return invalid(errors) if errors else malformed(f"The body cannot be read: {error}")


async def json_body(request: web.Request) -> bytes:
    """Raises: Problem (400, 408, 413, 415)."""
    is_json = request.content_type == "application/json" or request.content_type.endswith("+json")
    if "Content-Type" in request.headers and not is_json:
        raise unsupported_media_type("application/json")
    return await whole(request)


async def optional_json_body(request: web.Request) -> bytes:
    """Empty when there is none, whatever type it was said to have. Raises: as `json_body`."""
    return await json_body(request) if request.can_read_body else b""


def read_query(request: web.Request, kind: type[S]) -> S:
    """The query string as `kind`, a struct that forbids unknown fields. Raises: Problem (400)."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise bad_query(name, "stands twice; give it once")
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        fault = field_error(str(error), names_of(kind))
        raise bad_query(fault.pointer.strip("/"), fault.detail) from error


def names_of(kind: type[msgspec.Struct]) -> Fields:
    """For bodies and queries of one level."""
    return {"": tuple(field.encode_name for field in msgspec.structs.fields(kind))}


def field_error(complaint: str, fields: Fields = _FIELDS) -> FieldError:
    """msgspec's text as pointer, code and remedy."""
    located = _AT.fullmatch(complaint)
    text, path = (located[1], located[2]) if located else (complaint, "")
    pointer = _pointer(path)
    if unknown := _UNKNOWN.fullmatch(text):
        return _unknown_field(pointer, unknown[1], fields.get(pointer, ()))
    if missing := _MISSING.fullmatch(text):
        return FieldError(f"{pointer}/{escaped(missing[1])}", "required", f"{missing[1]} is missing; add it")
    return FieldError(pointer, "wrong_type", f"{text[:1].lower()}{text[1:]}; change it")


def _unknown_field(parent: str, name: str, known: tuple[str, ...]) -> FieldError:
    pointer = f"{parent}/{escaped(name)}"
    nearest = difflib.get_close_matches(name, known, n=1)
    there_are = f"; there are {', '.join(known)}" if known else ""
    advice = f"did you mean {nearest[0]}?" if nearest else f"remove it{there_are}"
    return FieldError(pointer, "unknown_field", f"{name[:64]} is not known; {advice}")


def _pointer(path: str) -> str:
    """`.retry.schedule_s[2]` as `/retry/schedule_s/2`. A key that msgspec does not name (`[...]`) is left out."""
    return _INDEX.sub(r"/\1", path.replace("[...]", "")).replace(".", "/")
