"""What schemathesis has to be told of Carillon: which URLs may be called, which ids there are, what no schema says.

Loaded by schemathesis, by the name that stands in schemathesis.toml.
"""

import json
import os
import random
from typing import Any

import schemathesis
from hypothesis import strategies as st

from services.ingest.constraints import BEYOND

# And these, which the document tells in words at their place.
ALSO = frozenset(
    {
        "/burst out_of_range",  # less than a second's worth
        "/name bad_value",  # characters that cannot be printed
        "idempotency_key_reused",
        "bad_query",  # a cursor that no list has given
        "conflict",  # "all" beside conditions
    }
)
CLOSED = os.environ["CLOSED_PORT"]
KNOWN = {
    "/v1/tasks/{id}": os.environ["TASK_IDS"].split(),
    "/v1/keys/{id}": os.environ["KEY_IDS"].split(),
    "/v1/parked/{id}": os.environ["PARKED_IDS"].split(),
    "/v1/schedules/{name}": os.environ["SCHEDULES"].split(),
    "/v1/targets/{host}": ["example.com", "127.0.0.1:8000"],
}

schemathesis.openapi.format("uri", st.sampled_from([f"http://127.0.0.1:{CLOSED}/{path}" for path in "abc"]))
schemathesis.openapi.format(
    "date-time-local", st.datetimes().map(lambda moment: moment.isoformat(timespec="milliseconds"))
)


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """In valid requests mostly what is there: of an unknown task ingest says so only after two seconds."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    known = next((known for path, known in KNOWN.items() if case.operation.path.startswith(path)), None)
    if is_valid and known and random.random() < 0.9:
        [name] = case.path_parameters
        case.path_parameters[name] = random.choice(known)


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: Any, value: Any) -> bytes:
    return json.dumps(value).encode()


@schemathesis.check
def refused_only_for_what_no_schema_says(_context: Any, response: Any, case: Any) -> None:
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if not is_valid or response.status_code not in {400, 413, 415, 422}:
        return
    problem = response.json()
    faults = problem["errors"] or [{"pointer": "", "code": problem["code"], "detail": ""}]
    unexplained = [fault for fault in faults if not _is_explained(fault)]
    assert not unexplained, f"valid data was refused: {problem}"


def _is_explained(fault: dict[str, str]) -> bool:
    code, place = fault["code"], f"{fault['pointer']} {fault['code']}"
    if code == "wrong_type":
        return fault["detail"].startswith("expected `int") and "got `float`" in fault["detail"]
    return code in BEYOND or bool({code, place} & ALSO)
