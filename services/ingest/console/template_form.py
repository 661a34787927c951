"""The form of what is to be called: the fields of a `TaskTemplate` as texts, and back as the API's own JSON. Pure.

What is typed becomes the document that a client would have sent, and is read by the API's own reader: so a form is
refused for the same reasons, in the same words. Values of secret headers are never written into a form; `HIDDEN`
stands for them, and is sent back for the one that is stored.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from libs.common.contracts import Call
from services.ingest.console.redaction import is_secret
from services.ingest.problems import FieldError, escaped
from services.ingest.view import sent

HIDDEN = "\u2022" * 8
KINDS = ("json", "text", "base64")
_TYPES = {"json": "application/json", "text": "text/plain; charset=utf-8", "base64": "application/octet-stream"}
# As JSON writes numbers; whatever else is typed travels as text, and is refused by name where none may stand.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,9})?")
_BETWEEN = re.compile(r"[,\s]+")
# What a textarea does not give back as it was: line ends other than LF, and NUL.
_CHANGED_BY_FORMS = re.compile(r"[\x00-\x08\x0b-\x1f]")

FIELDS = (
    "url", "method", "headers", "body_kind", "body", "content_type", "timeout_s", "schedule_s", "respect_retry_after",
    "expect_status", "body_contains", "labels", "callback_success", "callback_failure",
)  # fmt: skip
DEFAULTS: Mapping[str, str] = dict.fromkeys(FIELDS, "") | {
    "method": "POST",
    "body_kind": "json",
    "timeout_s": "15",
    "respect_retry_after": "on",
    "expect_status": "2xx",
}
_FIELD_OF: Mapping[str, str] = {
    "body_text": "body",
    "body_base64": "body",
    "retry": "schedule_s",
    "retry/schedule_s": "schedule_s",
    "retry/respect_retry_after": "respect_retry_after",
    "expect": "expect_status",
    "expect/status": "expect_status",
    "expect/body_contains": "body_contains",
    "callbacks": "callback_success",
    "callbacks/success": "callback_success",
    "callbacks/failure": "callback_failure",
}

Members = dict[str, bytes]
"""Of a JSON object: each value is JSON already."""


class Document(NamedTuple):
    """What a client would have sent, and what cannot even be said in it."""

    raw: bytes
    errors: Sequence[FieldError]


def fields_in(posted: Mapping[str, object]) -> dict[str, str]:
    """The texts of a form that was sent. Line ends are those of texts, not of HTTP."""
    return {name: value.replace("\r\n", "\n") for name, value in posted.items() if isinstance(value, str)}


# --- from a call to a form


def template_fields(call: Call, labels: Mapping[str, str]) -> dict[str, str]:
    view = sent(call, labels)
    kind, body = _body_fields(view, call.body)
    content_type = view["content_type"] or ""
    return {
        "url": call.url,
        "method": call.method,
        "headers": "\n".join(
            f"{name}: {HIDDEN if is_secret(name) else value}" for name, value in view["headers"].items()
        ),
        "body_kind": kind,
        "body": body,
        "content_type": "" if body and content_type == _TYPES[kind] else content_type,
        "timeout_s": plain(call.timeout_s),
        "schedule_s": _ladder_field(call.schedule_s),
        "respect_retry_after": "on" if call.respect_retry_after else "",
        "expect_status": ", ".join(call.expect_status),
        "body_contains": call.expect_body_contains or "",
        "labels": "\n".join(f"{name}={value}" for name, value in labels.items()),
        "callback_success": call.callback_success or "",
        "callback_failure": call.callback_failure or "",
    }


def plain(number: float | None) -> str:
    """15.0 as 15."""
    return "" if number is None else repr(number).removesuffix(".0")


def _body_fields(view: Mapping[str, object], content: bytes) -> tuple[str, str]:
    text = view["body_text"]
    if isinstance(view["body"], msgspec.Raw):
        kind, text = "json", bytes(view["body"]).decode()
    elif isinstance(text, str):
        kind = "text"
    else:
        kind, text = ("base64", view["body_base64"]) if content else ("json", "")
    assert isinstance(text, str)
    if kind != "base64" and _CHANGED_BY_FORMS.search(text):
        return "base64", base64.b64encode(content).decode()
    return kind, text


def _ladder_field(schedule_s: tuple[float, ...] | None) -> str:
    if schedule_s is None:
        return ""
    return ", ".join(map(plain, schedule_s)) or "none"


# --- from a form to a document


def template_json(
    values: Mapping[str, str],
    stored: Iterable[tuple[str, str]] = (),
    more: Mapping[str, object] | None = None,
) -> Document:
    """`stored`: the headers that `HIDDEN` may stand for. `more`: members beside those of a template."""
    errors: list[FieldError] = []
    members: Members = {name: encoded(value) for name, value in (more or {}).items()}
    for name in ("url", "method", "content_type"):
        if text := values.get(name, "").strip():
            members[name] = encoded(text)
    if text := values.get("timeout_s", "").strip():
        members["timeout_s"] = number_or_text(text)
    members["headers"] = _object(_headers(values.get("headers", ""), dict(_lower(stored)), errors))
    members["labels"] = _object(_labels(values.get("labels", ""), errors))
    members |= _body(values.get("body_kind", ""), values.get("body", ""), errors)
    members["retry"] = json_object(_retry(values))
    members["expect"] = json_object(_expect(values))
    members["callbacks"] = json_object(_callbacks(values))
    return Document(json_object(members), errors)


def json_object(members: Members) -> bytes:
    return _object(members.items())


def encoded(value: object) -> bytes:
    return msgspec.json.encode(value)


def number_or_text(text: str) -> bytes:
    return text.encode() if _NUMBER.fullmatch(text) else encoded(text)


def _object(pairs: Iterable[tuple[str, bytes]]) -> bytes:
    """A name that stands twice stays: the API's reader says so."""
    return b"{" + b",".join(encoded(name) + b":" + value for name, value in pairs) + b"}"


def _headers(text: str, stored: Mapping[str, str], errors: list[FieldError]) -> Iterator[tuple[str, bytes]]:
    for number, line in _lines(text):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            errors.append(FieldError("/headers", "bad_line", f"has no colon in line {number}; write Name: value"))
        elif value != HIDDEN:
            yield name, encoded(value)
        elif name.lower() in stored:
            yield name, encoded(stored[name.lower()])
        else:
            detail = "has no value that is known; type its value again, or remove the line"
            errors.append(FieldError(f"/headers/{escaped(name)}", "hidden", detail))


def _labels(text: str, errors: list[FieldError]) -> Iterator[tuple[str, bytes]]:
    for number, line in _lines(text):
        name, equals, value = line.partition("=")
        if equals:
            yield name.strip(), encoded(value)
        else:
            errors.append(FieldError("/labels", "bad_line", f"has no = in line {number}; write name=value"))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def _lower(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((name.lower(), value) for name, value in headers)


def _body(kind: str, text: str, errors: list[FieldError]) -> Members:
    match kind:
        case "text":
            return {"body_text": encoded(text)} if text else {}
        case "base64":
            joined = "".join(text.split())
            return {"body_base64": encoded(joined)} if joined else {}
        case "json":
            return {"body": text.encode()} if text.strip() and _is_json(text, errors) else {}
        case _:
            errors.append(FieldError("/body", "bad_kind", f"is of no kind that there is; choose {', '.join(KINDS)}"))
            return {}


def _is_json(text: str, errors: list[FieldError]) -> bool:
    """Alone: it stands raw in the document."""
    try:
        msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        errors.append(FieldError("/body", "bad_json", f"is no JSON: {error}; correct it, or send it as text"))
        return False
    return True


def _retry(values: Mapping[str, str]) -> Members:
    members = {"respect_retry_after": encoded(bool(values.get("respect_retry_after")))}
    text = values.get("schedule_s", "").strip()
    if text.lower() == "none":
        members["schedule_s"] = b"[]"
    elif text:
        members["schedule_s"] = _array(number_or_text(step) for step in _parts(text))
    return members


def _expect(values: Mapping[str, str]) -> Members:
    members: Members = {}
    if statuses := _parts(values.get("expect_status", "")):
        members["status"] = _array(map(encoded, statuses))
    if contains := values.get("body_contains"):
        members["body_contains"] = encoded(contains)
    return members


def _callbacks(values: Mapping[str, str]) -> Members:
    given = {when: values.get(f"callback_{when}", "").strip() for when in ("success", "failure")}
    return {when: encoded(url) for when, url in given.items() if url}


def _parts(text: str) -> list[str]:
    return [part for part in _BETWEEN.split(text) if part]


def _array(values: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"


# --- what was wrong with it


def faults_of(errors: Iterable[FieldError]) -> dict[str, list[str]]:
    """The texts of `errors` by the field of the form that they are about; "" is the form as a whole."""
    faults: dict[str, list[str]] = {}
    for error in errors:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in error.pointer.removeprefix("/task").split("/")]
        faults.setdefault(_field_of(steps[1:]), []).append(_sentence(".".join(steps[1:]), error))
    return faults


def _field_of(steps: Sequence[str]) -> str:
    if not steps:
        return ""
    return _FIELD_OF.get("/".join(steps[:2])) or _FIELD_OF.get(steps[0], steps[0])


def _sentence(name: str, error: FieldError) -> str:
    if not name or error.detail.startswith(f"{name.rpartition('.')[2]} "):
        return error.detail
    return f"{name}: {error.detail}" if error.code == "wrong_type" else f"{name} {error.detail}"
