"""What the OpenAPI document says of that which many operations share: tags, parameters of paths, headers, problems."""

from collections.abc import Mapping

from services.ingest import problems, schedule_commands, target_rules
from services.ingest.constraints import Schema
from services.ingest.endpoint import JSON
from services.ingest.problems import FieldError, Problem

TAGS: Mapping[str, str] = {
    "tasks": "One call each, at its time.",
    "schedules": "Calls that come again, by cron or interval.",
    "keys": "API keys of the project.",
    "targets": "Hosts that are called: pause them, limit their rate.",
    "signing-secret": "What calls are signed with.",
    "bulk": "Commands for many tasks, and how far they have come.",
    "digest": "The next mail about what has failed.",
    "parked": "Messages that could not be processed, kept for a person.",
    "fallback": "Notices for the next digest.",
    "legacy": "For clients of the program that Carillon replaces.",
}

PATH: Mapping[str, Schema] = {
    "id": {"type": "string", "format": "uuid"},
    "parked id": {"type": "string"},  # the id of a message, whoever gave it
    "name": {"type": "string", "pattern": f"^{schedule_commands.NAME.pattern}$"},
    "host": {"type": "string", "minLength": 1, "maxLength": target_rules.HOST_CHARS_MAX, "examples": ["example.com"]},
}
REQUEST_HEADERS: Mapping[str, Schema] = {
    "Idempotency-Key": {
        "description": "Names what this request makes. With the same key and body it is made once, and the first"
        " answer comes again; another body is a 422, a request that is still running a 409.",
        "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
        "example": "order-42-reminder",
    },
    "traceparent": {
        "description": "W3C Trace Context, carried to the call. An invalid one counts as none.",
        "schema": {"type": "string"},
        "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
    "X-Request-Id": {
        "description": "Echoed in the answer when it is 1 to 128 visible ASCII characters; else it gets a new one.",
        "schema": {"type": "string"},
    },
}
RESPONSE_HEADERS: Mapping[str, Schema] = {
    "X-Request-Id": {"description": "Quote it when you report a problem.", "schema": {"type": "string"}},
    "Location": {"description": "Where it is.", "schema": {"type": "string", "format": "uri-reference"}},
    "Idempotency-Replayed": {
        "description": "This is the first answer again; nothing was made now.",
        "schema": {"type": "string", "const": "true"},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "How to say who you are.", "schema": {"type": "string"}},
    "RateLimit-Policy": {
        "description": 'Of a key with a limit: `"key";q=20;w=2`, 20 requests at once, that come back within 2 seconds.',
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'Of a key with a limit: `"key";r=7;t=2`, 7 left of them.',
        "schema": {"type": "string"},
    },
    "Link": {"description": 'The next page: `<...>; rel="next"`. Absent on the last.', "schema": {"type": "string"}},
}
OF_A_LIMIT = ("RateLimit-Policy", "RateLimit")
BY_STATUS: Mapping[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After", *OF_A_LIMIT),
    503: ("Retry-After",),
}

PROBLEMS: Mapping[int, Problem] = {
    400: problems.malformed("The body cannot be read: JSON is malformed: expected ':' (byte 7)"),
    401: problems.unauthorized(),
    403: problems.forbidden("tasks:write"),
    404: problems.not_found("There is no such thing"),
    408: Problem(408, "body_too_slow", "The body did not arrive within 30 seconds. Send it faster, or in parts."),
    409: Problem(409, "conflict", "Its present state does not allow this; `detail` says which state that is."),
    413: Problem(413, "body_too_large", "The body is larger than 262144 bytes. Send less."),
    415: problems.unsupported_media_type(JSON),
    422: problems.invalid([FieldError("/delay", "not_a_delay", "is no delay; write seconds as a number, or 90s, 5m")]),
    429: Problem(429, "rate_limited", "This key has used up its requests. Wait as Retry-After says."),
    503: Problem(503, "not_confirmed", "The message broker did not confirm in time. Repeat the request."),
}
