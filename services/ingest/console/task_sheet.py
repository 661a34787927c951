"""What the page of one task says, as values for its template: the state, the request, what may be done. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from urllib.parse import quote, urlencode
from uuid import UUID

from libs.common.contracts import Call, decode_call
from libs.common.host import host_of
from libs.common.ids import callback_id
from services.ingest.bulk import OF_ACTION
from services.ingest.console.page import ROOT
from services.ingest.console.redaction import without_secrets
from services.ingest.console.request_sheet import Request, request_of
from services.ingest.console.search import write_search
from services.ingest.console.timeline import Timeline
from services.ingest.console.visible import visible
from services.ingest.curl import body_argument, curl_command
from services.ingest.explain import span
from services.ingest.explanation import Explanation
from services.ingest.projection import FINAL
from services.ingest.stored import StoredTask
from services.ingest.task_commands import REDRIVABLE
from services.ingest.task_filter import TaskFilter
from services.ingest.view import status

CURL_CHARS_MAX = 32 * 1024
"""A longer line than that no terminal takes by paste."""

Do = Literal["run", "reschedule", "cancel", "redrive", "clone", "purge"]


class Link(NamedTuple):
    text: str
    to: str


class Label(NamedTuple):
    name: str
    value: str
    to: str


class Sheet(NamedTuple):
    """`request` and `host` are None of a task that was purged, `curl` also where it cannot be copied.

    `overdue`: for how long it has not been called yet.
    """

    task: StoredTask
    status: str
    explanation: Explanation
    timeline: Timeline
    next_at: datetime | None
    overdue: str | None
    labels: Sequence[Label]
    host: Link | None
    schedule: Link | None
    callback_of: Link | None
    request: Request | None
    curl: str | None
    may: frozenset[Do]
    is_live: bool
    redrive_curl: str


def sheet(
    task: StoredTask, explanation: Explanation, timeline: Timeline, now: datetime, public_url: str | None
) -> Sheet:
    call = decode_call(task.call) if task.has_payload else None
    state = status(task, now)
    is_overdue = state == "due" and task.first_attempt_at is None
    return Sheet(
        task=task,
        status=state,
        explanation=explanation,
        timeline=timeline,
        next_at=None if explanation.next_at is None else datetime.fromisoformat(explanation.next_at),
        overdue=span(now - task.due_at) if is_overdue else None,
        labels=[_label(name, value) for name, value in sorted(task.labels.items())],
        host=_host(call),
        schedule=(task.schedule and Link(task.schedule, f"{ROOT}/schedules/{quote(task.schedule, safe='')}")) or None,
        callback_of=_callback_of(task),
        request=None if call is None else _request(task, call),
        curl=None if call is None else _curl(call),
        may=possible(task, now),
        is_live=task.state not in FINAL,
        redrive_curl=redrive_curl(task.id, public_url),
    )


def possible(task: StoredTask, now: datetime) -> frozenset[Do]:
    """What its state lets one do to it; who may is another question, and the command may still come too late."""
    state = status(task, now)
    may: set[Do] = set()
    if state == "scheduled":
        may |= {"run", "reschedule"}
    if state in OF_ACTION["cancel"]:
        may.add("cancel")
    if task.has_payload:
        may.add("clone")
        if task.state in REDRIVABLE:
            may.add("redrive")
        if task.state in FINAL:
            may.add("purge")
    return frozenset(may)


def redrive_curl(id_: UUID, public_url: str | None) -> str:
    """As in the digest."""
    base = public_url or "$CARILLON_URL"
    return f'curl -X POST "{base}/v1/tasks/{id_}/redrive" -H "Authorization: Bearer $CARILLON_KEY"'


def _curl(call: Call) -> str | None:
    """As it can be copied: what is shown is what is meant. None where that cannot be."""
    line = curl_command(without_secrets(call), as_argument=_shown_argument)
    return line if len(line) <= CURL_CHARS_MAX and visible(line) == line else None


def _shown_argument(body: bytes) -> str | None:
    text = body_argument(body)
    return text if text is not None and visible(text) == text else None


def _request(task: StoredTask, call: Call) -> Request:
    """Only a call that ends a task calls back, so one that expired has no callback's task."""
    request = request_of(call)
    callbacks = [
        each._replace(task=_callback_task(task, each.when)) if task.state == each.when else each
        for each in request.callbacks
    ]
    return request._replace(callbacks=callbacks)


def _callback_task(task: StoredTask, outcome: str) -> str:
    return f"{ROOT}/tasks/{callback_id(task.project, task.id, task.generation, outcome)}"


def _callback_of(task: StoredTask) -> Link | None:
    """Of a callback's own task, the one that it tells of."""
    try:
        id_ = UUID(task.labels.get("callback_of", ""))
    except ValueError:
        return None
    return Link(str(id_), f"{ROOT}/tasks/{id_}")


def _label(name: str, value: str) -> Label:
    words = write_search(TaskFilter(labels={name: value}))
    return Label(name, value, f"{ROOT}/tasks?{urlencode({'q': words})}")


def _host(call: Call | None) -> Link | None:
    if call is None or not (host := host_of(call.url)):
        return None
    return Link(host, f"{ROOT}/targets/{quote(host, safe='')}")
