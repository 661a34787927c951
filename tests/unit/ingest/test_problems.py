import json

import pytest

from libs.common.postgres import PostgresAway
from libs.common.publisher import PublishUnknown
from services.ingest.auth import BOOTSTRAP_PROJECT, Keys
from services.ingest.problems import FieldError, Problem, invalid, problem_of
from services.ingest.requests import field_error

KEY = "a-key-of-enough-length"


def test_a_problem_is_an_rfc_9457_document() -> None:
    response = invalid([FieldError("/url", "required", "add it")]).response(instance="/v1/tasks", request_id="r1")
    assert response.content_type == "application/problem+json"
    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    assert body["errors"] == [{"pointer": "/url", "code": "required", "detail": "add it"}]
    assert {name: body[name] for name in ("type", "title", "status", "code", "instance", "request_id")} == {
        "type": "about:blank", "title": "Unprocessable Entity", "status": 422, "code": "invalid_request",
        "instance": "/v1/tasks", "request_id": "r1",
    }  # fmt: skip


@pytest.mark.parametrize("error", [PublishUnknown("x"), PostgresAway("x")])
def test_a_lost_dependency_is_a_503_that_says_when_to_come_back(error: Exception) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert (problem.status, problem.headers) == (503, {"Retry-After": "1"})


def test_a_bug_is_no_problem_of_the_client() -> None:
    assert problem_of(KeyError("x")) is None


@pytest.mark.parametrize(
    ("complaint", "pointer", "code"),
    [
        ("Expected `float`, got `str` - at `$.retry.schedule_s[2]`", "/retry/schedule_s/2", "wrong_type"),
        ("Expected `str`, got `int` - at `$.headers[...]`", "/headers", "wrong_type"),
        ("Expected `object`, got `array`", "", "wrong_type"),
        ("Object missing required field `url`", "/url", "required"),
        ("Object contains unknown field `shedule_s` - at `$.retry`", "/retry/shedule_s", "unknown_field"),
        ("Object contains unknown field `a` - at `$`", "/a", "unknown_field"),
    ],
)
def test_the_decoders_complaint_becomes_a_pointer(complaint: str, pointer: str, code: str) -> None:
    error = field_error(complaint)
    assert (error.pointer, error.code) == (pointer, code)


def test_a_misspelt_field_gets_a_suggestion() -> None:
    assert "did you mean delay?" in field_error("Object contains unknown field `dealy`").detail


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}", f"BEARER  {KEY} "])
async def test_the_bootstrap_key_opens_the_default_project(authorization: str) -> None:
    assert (await Keys(KEY).caller(authorization)).project == BOOTSTRAP_PROJECT


@pytest.mark.parametrize("authorization", [None, "", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", "Bearer \udcff"])
async def test_every_refusal_reads_the_same(authorization: str | None) -> None:
    with pytest.raises(Problem) as caught:
        await Keys(KEY).caller(authorization)
    assert (caught.value.status, caught.value.headers) == (401, {"WWW-Authenticate": "Bearer"})
    assert KEY not in caught.value.detail
