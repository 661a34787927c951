"""The calls that we make, for the section `webhooks` of the OpenAPI document. What makes them is the dispatcher."""

from typing import Any

Schema = dict[str, Any]


HEADERS: dict[str, tuple[str, Schema, str]] = {
    "webhook-id": (
        "The task's id, the same on every attempt: remember it, and ignore what you have handled.",
        {"type": "string", "format": "uuid"},
        "0199c0de-1111-7222-8333-444455556666",
    ),
    "webhook-timestamp": (
        "Unix seconds of this attempt. Refuse what is more than five minutes from your clock.",
        {"type": "string", "pattern": "^[0-9]+$"},
        "1803891600",
    ),
    "webhook-signature": (
        "Standard Webhooks: `v1,` and the base64 of HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`, the"
        " body as it came. Several, with spaces between them, while a secret is being rotated: one must be right.",
        {"type": "string", "pattern": "^v1,[A-Za-z0-9+/]+=*(?: v1,[A-Za-z0-9+/]+=*)*$"},
        "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    ),
    "Idempotency-Key": (
        "The task's id again, for frameworks that look for it there.",
        {"type": "string", "format": "uuid"},
        "0199c0de-1111-7222-8333-444455556666",
    ),
    "Carillon-Attempt": (
        "Which attempt this is, of at most how many.",
        {"type": "string", "pattern": "^[0-9]+/[0-9]+$"},
        "2/7",
    ),
    "Carillon-Due-At": (
        "When the task was due.",
        {"type": "string", "format": "date-time"},
        "2027-03-01T09:00:00.000Z",
    ),
    "User-Agent": ("`Carillon/<version>`, unless the task sets another.", {"type": "string"}, "Carillon/0.1.0"),
    "traceparent": (
        "Of the trace that the task was made in, where there is one.",
        {"type": "string"},
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
}
_OPTIONAL = frozenset({"traceparent"})
_ANSWERS = {
    "2XX": "Done, unless the task's `expect` asks for something else. Answer when the work is safe, not when it is"
    " done.",
    "3XX": "Not followed; a failure, called again.",
    "408": "Called again on the next step of the ladder. So are 425, 429, 5XX, a timeout and a connection that fails;"
    " a longer `Retry-After` is honoured up to 24 h.",
    "410": "Failed at once, never called again.",
    "4XX": "Called again, because you may be in the middle of a deployment. With `Carillon-No-Retry: true` failed at"
    " once.",
    "5XX": "Called again on the next step of the ladder.",
}


def webhooks() -> dict[str, Any]:
    any_body = {"description": "The task's body, byte for byte.", "content": {"*/*": {"schema": {}}}}
    finished = {"required": True, "content": {"application/json": {"schema": _ref("FinishedTask")}}}
    return {
        "call": {
            "post": _call(
                "receive_call",
                "A task is called",
                "The task's own method (here POST), URL, headers and body, and these headers, which no task can set."
                " At least once: the same `webhook-id` may come again.",
                any_body,
            )
        },
        "task_finished": {
            "post": _call(
                "receive_finished_task",
                "A task has ended",
                "What `callbacks.success` and `callbacks.failure` are called with: a task of its own, with a ladder of"
                " its own, no callbacks, and the label `callback_of`. `webhook-id` is its own, `id` the other one's.",
                finished,
            )
        },
    }


def _call(operation_id: str, summary: str, description: str, body: Schema) -> Schema:
    return {
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "parameters": [_parameter(name) for name in HEADERS],
        "requestBody": body,
        "responses": {status: {"description": meaning} for status, meaning in _ANSWERS.items()},
        "security": [],
    }


def _parameter(name: str) -> Schema:
    description, schema, example = HEADERS[name]
    return {
        "name": name,
        "in": "header",
        "required": name not in _OPTIONAL,
        "description": description,
        "schema": schema,
        "example": example,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
