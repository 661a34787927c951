"""The form of a new task: from what was typed to the JSON a client would have sent, and what is wrong with it. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from libs.common.contracts import Call
from libs.common.egress import EgressRules
from libs.common.ids import new_id
from services.ingest.console import template_form
from services.ingest.console.redaction import is_secret
from services.ingest.console.template_form import Document, faults_of, template_fields, template_json
from services.ingest.console.when import read_moment, read_when
from services.ingest.creation import Sender, create
from services.ingest.problems import FieldError, Problem, invalid
from services.ingest.requests import NewTask, read_task
from services.ingest.stored import StoredTask

FIELDS = ("when", "timezone", "expires_at", *template_form.FIELDS)
DEFAULTS: Mapping[str, str] = {"when": "", "timezone": "", "expires_at": "", **template_form.DEFAULTS}
# The API's pointers to the fields that stand in one box here.
_POINTERS: Mapping[str, str] = {
    "/due_at": "/when",
    "/delay": "/when",
    "/local_time": "/when",
    "/local_time/at": "/when",
    "/local_time/timezone": "/timezone",
}
_KEY = re.compile(r"[0-9a-f]{32}")

Faults = Mapping[str, Sequence[str]]


class TaskForm(NamedTuple):
    """`key` makes it one task, however often it is sent. `notes`: what a clone could not take over."""

    values: Mapping[str, str]
    key: str
    faults: Faults = {}
    notes: Sequence[str] = ()


def blank() -> TaskForm:
    return TaskForm(DEFAULTS, new_key())


def clone_of(task: StoredTask, call: Call) -> TaskForm:
    """To be called now, unless something else is typed."""
    return TaskForm({**DEFAULTS, **template_fields(call, task.labels)}, new_key(), notes=_notes(call))


def typed(posted: Mapping[str, object]) -> TaskForm:
    """Every field of the form, "" where none was sent."""
    texts = template_form.fields_in(posted)
    values = dict.fromkeys(FIELDS, "") | {name: text for name, text in texts.items() if name in FIELDS}
    key = texts.get("key", "")
    return TaskForm(values, key if _KEY.fullmatch(key) else new_key())


def new_key() -> str:
    return new_id().hex


def document(values: Mapping[str, str], bytes_max: int) -> Document:
    """What a client would have sent."""
    when = read_when(values["when"], values["timezone"])
    times = {**msgspec.structs.asdict(when), "expires_at": read_moment(values["expires_at"])}
    more = {name: msgspec.to_builtins(value) for name, value in times.items() if value is not None}
    made = template_json(values, more=more)
    if len(made.raw) <= bytes_max:
        return made
    fault = FieldError("/body", "too_large", f"makes the task larger than {bytes_max} bytes; send less")
    return Document(made.raw, [*made.errors, fault])


def checked(made: Document, sender: Sender, egress: EgressRules) -> NewTask:
    """By the rules of the API. Raises: Problem with all that is wrong."""
    try:
        new = read_task(made.raw)
        create(new, sender, egress)
    except Problem as problem:
        errors = [*made.errors, *problem.errors]
        raise Problem(problem.status, problem.code, problem.detail, errors=errors) from problem
    if made.errors:
        raise invalid(made.errors)
    return new


def told(problem: Problem) -> Faults:
    """The faults by the field that they stand beside; "" is the form as a whole."""
    if not problem.errors:
        return {"": [problem.detail]}
    return faults_of(
        FieldError(_POINTERS.get(each.pointer, each.pointer), each.code, each.detail) for each in problem.errors
    )


def _notes(call: Call) -> list[str]:
    secret = [name for name, _value in call.headers if is_secret(name)]
    notes = []
    if secret:
        notes.append(f"Values of secret headers are not copied: type {', '.join(secret)} again, or remove the line.")
    if call.expect_json_success:
        notes.append("The task succeeds on a JSON object whose success is true: that cannot be asked for here.")
    return notes
