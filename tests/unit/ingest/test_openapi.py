"""The document against what it describes: the rows, the dispatcher, the file in docs."""

import re
from typing import Any, get_args

import jsonschema_rs
import msgspec
import pytest
from openapi_spec_validator import validate

from deploy.openapi import FILE, endpoints, text
from libs.common.clock import SystemClock
from services.dispatcher.caller import request_of
from services.ingest import webhooks
from services.ingest.auth import Scope
from services.ingest.examples import EXAMPLES
from services.ingest.openapi import document, operation_id
from tests.unit.dispatcher.samples import SIGNER, a_call, a_task

DOCUMENT = document(endpoints(), "1.2.3")
OPERATIONS = {
    operation["operationId"]: operation for methods in DOCUMENT["paths"].values() for operation in methods.values()
}


def schema_of(content: dict[str, Any]) -> dict[str, Any]:
    return {**content["schema"], "components": DOCUMENT["components"]}


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    validate(DOCUMENT)


def test_the_file_in_docs_is_current() -> None:
    assert FILE.read_text() == text(), "run: python -m deploy.openapi"


def test_every_row_is_one_operation_with_a_name_of_its_own() -> None:
    assert len(OPERATIONS) == len(endpoints()) == sum(map(len, DOCUMENT["paths"].values()))
    assert all(re.fullmatch("[a-z]+(_[a-z]+)+", name) for name in OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/v1/tasks", "create_task"),
        ("GET", "/v1/tasks", "list_tasks"),
        ("GET", "/v1/parked", "list_parked"),
        ("GET", "/v1/tasks/{id}", "get_task"),
        ("DELETE", "/v1/tasks/{id}", "delete_task"),
        ("GET", "/v1/tasks/{id}/attempts", "get_task_attempts"),
        ("POST", "/v1/tasks/{id}/run", "run_task"),
        ("POST", "/v1/tasks/redrive", "redrive_tasks"),
        ("PUT", "/v1/schedules/{name}", "put_schedule"),
        ("GET", "/v1/signing-secret", "get_signing_secret"),
        ("POST", "/v1/signing-secret/rotate", "rotate_signing_secret"),
        ("POST", "/fallback", "create_fallback"),
        ("POST", "/api/task/save", "save_task"),
    ],
)
def test_an_operations_name_follows_from_its_path(method: str, path: str, name: str) -> None:
    assert operation_id(method, path, DOCUMENT["paths"]) == name


def test_an_operation_says_which_scope_it_needs_and_what_happens_without() -> None:
    scopes = {scope for operation in OPERATIONS.values() for each in operation["security"] for scope in each["key"]}
    assert scopes <= set(get_args(Scope))
    for operation in OPERATIONS.values():
        if operation["security"]:
            [[scope]] = [each["key"] for each in operation["security"]]
            assert f"`{scope}`" in operation["description"]
            assert {"401", "403", "429", "503"} <= set(operation["responses"])


def test_every_tag_is_explained() -> None:
    explained = {tag["name"] for tag in DOCUMENT["tags"]}
    assert {tag for operation in OPERATIONS.values() for tag in operation["tags"]} == explained


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_body_has_an_example_that_fits_its_schema(name: str) -> None:
    for content in OPERATIONS[name].get("requestBody", {}).get("content", {}).values():
        jsonschema_rs.validate(schema_of(content), content["example"])


@pytest.mark.parametrize("status", DOCUMENT["components"]["responses"])
def test_every_problem_has_an_example_that_fits_its_schema(status: str) -> None:
    response = DOCUMENT["components"]["responses"][status]
    [(media_type, content)] = response["content"].items()
    assert media_type == "application/problem+json"
    assert content["example"]["status"] == int(status)
    jsonschema_rs.validate(schema_of(content), content["example"])


def test_nothing_is_described_that_no_operation_uses() -> None:
    used = set(re.findall(r'"\$ref":"#/components/([^"]+)"', msgspec.json.encode(DOCUMENT).decode()))
    kinds = ("schemas", "responses", "headers", "parameters")
    described = {f"{kind}/{name}" for kind in kinds for name in DOCUMENT["components"][kind]}
    assert used == described


def test_the_calls_that_the_dispatcher_makes_carry_the_headers_that_are_described() -> None:
    call = a_call(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    request = request_of(a_task(), call, 7, SystemClock().now(), SIGNER)
    ours = dict(request.headers[len(call.headers) :])
    assert set(ours) == set(webhooks.HEADERS)
    for name, value in ours.items():
        _, schema, example = webhooks.HEADERS[name]
        for each in (value, example):
            jsonschema_rs.validate(schema, each)


def test_examples_are_for_types_that_somebody_takes() -> None:
    taken = {type_ for row in endpoints() for type_ in row.takes.values()}
    assert set(EXAMPLES) <= taken
