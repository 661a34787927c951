"""What a client is told when it does not get what it asked for, as RFC 9457 problem details.

A handler raises `Problem`, or lets `NotPublished` and `PostgresAway` pass: `problem_of` knows what each means to a
client. Texts name the remedy and never what is inside.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
from aiohttp import web

from libs.common.postgres import PostgresAway
from libs.common.publisher import NotPublished

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 1


class FieldError(msgspec.Struct, frozen=True):
    """One thing wrong with a request. `pointer` is a JSON pointer (RFC 6901) into its body."""

    pointer: str
    code: str
    detail: str


def escaped(name: str) -> str:
    """`name` as one step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457: `code` is for programs and never changes, `detail` is for people; `errors` names wrong fields."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    instance: str
    request_id: str
    errors: Sequence[FieldError] = ()


class Problem(Exception):
    """Ends a request with `status`. `code` is for programs and never changes, `detail` for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def document(self, *, instance: str, request_id: str) -> ProblemDocument:
        return ProblemDocument(
            title=HTTPStatus(self.status).phrase,
            status=self.status,
            code=self.code,
            detail=self.detail,
            instance=instance,
            request_id=request_id,
            errors=self.errors,
        )

    def response(self, *, instance: str, request_id: str) -> web.Response:
        return web.Response(
            status=self.status,
            body=msgspec.json.encode(self.document(instance=instance, request_id=request_id)),
            content_type=PROBLEM_JSON,
            headers=self.headers,
        )


def malformed(detail: str) -> Problem:
    return Problem(400, "malformed_json", f"{detail}. Send one JSON object, in UTF-8.")


def bad_query(name: str, detail: str) -> Problem:
    return Problem(400, "bad_query", f"The query parameter {name} cannot be used: {detail}.")


def unauthorized() -> Problem:
    """The same for every reason, so that it tells nobody which part was right."""
    return Problem(
        401,
        "unauthorized",
        "This needs a valid API key: send the header 'Authorization: Bearer <key>'.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def forbidden(scope: str) -> Problem:
    detail = f"This key may not do that: it lacks the scope {scope}. Use a key that has it."
    return Problem(403, "forbidden", detail)


def not_found(what: str) -> Problem:
    return Problem(404, "not_found", f"{what}. Check the id, and that the key belongs to its project.")


def unsupported_media_type(wanted: str) -> Problem:
    return Problem(415, "unsupported_media_type", f"Send the body as {wanted} and say so in the header Content-Type.")


def invalid(errors: Sequence[FieldError]) -> Problem:
    return Problem(
        422, "invalid_request", "Nothing was created: correct what `errors` names and send it again.", errors=errors
    )


def problem_of(error: Exception) -> Problem | None:
    """What `error` means to a client; None when it means a bug of ours."""
    match error:
        case Problem():
            return error
        case NotPublished():
            return _unavailable(
                "not_confirmed",
                "The message broker did not confirm in time. What you sent may still have been taken: repeat it with"
                " the same Idempotency-Key, and it will be taken once.",
            )
        case PostgresAway():
            return _unavailable("history_unavailable", "The task history cannot be read now. Repeat the request.")
        case web.HTTPException():
            return _of_framework(error)
        case _:
            return None


def bug() -> Problem:
    return Problem(500, "internal_error", "This is a fault of Carillon. Quote the request_id when you report it.")


def _unavailable(code: str, detail: str) -> Problem:
    return Problem(503, code, detail, headers={"Retry-After": str(RETRY_AFTER_S)})


def _of_framework(error: web.HTTPException) -> Problem:
    match error:
        case web.HTTPRequestEntityTooLarge():
            return Problem(413, "body_too_large", f"The body is too large: {error.text}. Send less.")
        case web.HTTPMethodNotAllowed():
            allow = error.headers.get("Allow", "")
            detail = f"{error.method} is not possible here; use {allow}."
            return Problem(405, "method_not_allowed", detail, headers={"Allow": allow})
        case web.HTTPNotFound():
            return Problem(404, "not_found", "There is nothing under this path; GET / lists what there is.")
        case _:
            return Problem(error.status, "http_error", error.text or error.reason)
