"""The schemas against the checks: neither refuses what the other takes, but for what is said to be beyond a schema."""

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.egress import EgressRules
from services.ingest import limits, target
from services.ingest.constraints import BEYOND, DELAY, URL
from services.ingest.creation import Sender, create
from services.ingest.problems import FieldError, Problem
from services.ingest.requests import NewTask, read_task
from services.ingest.schemas import schemas

HERE = "https://example.com/"
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SENDER = Sender(id=UUID(int=1), project="default", fingerprint="f" * 64, now=NOW)
EGRESS = EgressRules(["127.0.0.0/8"])
[_REF], COMPONENTS = schemas([NewTask])
SCHEMA = jsonschema_rs.validator_for({**_REF, "components": {"schemas": COMPONENTS}})

text = st.text(max_size=40)
number = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
moment = st.datetimes(timezones=st.sampled_from([None, UTC])).map(lambda at: at.isoformat()) | number | text
names = st.from_regex(r"[A-Za-z0-9_./-]{1,70}", fullmatch=True) | text
url = (
    st.sampled_from(["https://example.com/a?b=c", "http://127.0.0.1:8000/", "http://user@example.com/", "HTTP://A"])
    | st.from_regex(URL["pattern"], fullmatch=True)
    | text.map(lambda rest: f"https://example.com/{rest}")
    | text.map(lambda host: f"http://{host}/")
    | text
)
delay = st.from_regex(DELAY["pattern"], fullmatch=True) | number | text
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "url": url,
    "method": st.sampled_from(["GET", "POST", "get", "OPTIONS"]),
    "due_at": moment,
    "delay": delay,
    "local_time": st.fixed_dictionaries(
        {
            "at": st.datetimes().map(lambda at: at.isoformat()) | text,
            "timezone": st.sampled_from(["UTC", "Europe/Paris", "../etc", "europe/paris"]) | text,
        }
    ),
    "headers": st.dictionaries(st.sampled_from(["X-A", "x-a", "Host", "Content-Type"]) | names, text, max_size=60),
    "body": st.sampled_from([None, 0, {}, [], "", {"a": [1.5]}]),
    "body_text": text,
    "body_base64": st.binary(max_size=9).map(lambda data: base64.b64encode(data).decode()) | text,
    "content_type": st.sampled_from(["text/plain", "text/plain; a=b", "text", "text/plain;\n"]) | text,
    "timeout_s": number | st.floats(0, 61),
    "expires_at": moment,
    "retry": st.fixed_dictionaries({}, optional={"schedule_s": st.lists(st.floats(-1, 700_000), max_size=60)}),
    "expect": st.fixed_dictionaries(
        {}, optional={"status": st.lists(st.sampled_from(["2xx", "204", "600"]) | text), "body_contains": text}
    ),
    "labels": st.dictionaries(names, text | st.text(min_size=250, max_size=260), max_size=20),
    "callbacks": st.fixed_dictionaries({}, optional={"success": url, "failure": url}),
}
one_field = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda name: FIELDS[name].map(lambda value: {"url": "https://example.com/", name: value})
)
some_fields = st.fixed_dictionaries(
    {"url": url}, optional={name: FIELDS[name] | st.none() for name in FIELDS if name != "url"}
)


def faults_of(task: dict[str, Any]) -> list[FieldError]:
    """What the checks say; none when it is taken."""
    try:
        create(read_task(json.dumps(task).encode()), SENDER, EGRESS)
    except Problem as problem:
        return list(problem.errors) or [FieldError("", problem.code, problem.detail)]
    return []


@settings(max_examples=300)
@given(one_field | some_fields)
def test_what_is_taken_fits_the_schema_and_what_fits_is_taken(task: dict[str, Any]) -> None:
    faults = faults_of(task)
    if not faults:
        SCHEMA.validate(task)
    if SCHEMA.is_valid(task):
        assert not [fault for fault in faults if fault.code not in BEYOND], faults


@pytest.mark.parametrize(
    "task",
    [
        {"due_at": "2027-03-01T09:00:00Z", "delay": 5},
        {"delay": "5m", "local_time": {"at": "2027-03-01T09:00:00", "timezone": "UTC"}},
        {"body": 0, "body_text": ""},
        {"delay": "5"},
        {"delay": -1},
        {"timeout_s": 0},
        {"url": "ftp://example.com/"},
        {"url": "https://example.com/#a"},
        {"url": "https://me@example.com/"},
        {"headers": {"X A": "b"}},
        {"headers": {"X-A": "a\r\nb"}},
        {"labels": {"a b": "c"}},
        {"labels": {"a": "\0"}},
        {"body_base64": "a"},
        {"expect": {"status": ["600"]}},
        {"retry": {"schedule_s": [-1]}},
        {"unknown": 1},
    ],
)
def test_both_refuse(task: dict[str, Any]) -> None:
    asked = {"url": HERE} | task
    assert faults_of(asked)
    assert not SCHEMA.is_valid(asked)


LIMITS: list[tuple[str, Any, Any]] = [
    ("timeout_s", limits.TIMEOUT_S_MIN, limits.TIMEOUT_S_MIN / 2),
    ("timeout_s", limits.TIMEOUT_S_MAX, limits.TIMEOUT_S_MAX + 0.1),
    ("delay", 0, -0.001),
    ("delay", "1" * 63 + "s", "1" * 64 + "s"),
    ("retry", {"schedule_s": [0] * limits.RETRIES_MAX}, {"schedule_s": [0] * (limits.RETRIES_MAX + 1)}),
    ("retry", {"schedule_s": [limits.RETRY_DELAY_S_MAX]}, {"schedule_s": [limits.RETRY_DELAY_S_MAX + 1]}),
    ("expect", {"status": ["2xx"] * limits.STATUSES_MAX}, {"status": ["2xx"] * (limits.STATUSES_MAX + 1)}),
    ("expect", {"status": ["2xx"]}, {"status": []}),
    ("expect", {"body_contains": "a"}, {"body_contains": ""}),
    (
        "expect",
        {"body_contains": "a" * limits.BODY_CONTAINS_CHARS_MAX},
        {"body_contains": "a" * (limits.BODY_CONTAINS_CHARS_MAX + 1)},
    ),
    (
        "labels",
        {str(n): "" for n in range(limits.LABELS_MAX)},
        {str(n): "" for n in range(limits.LABELS_MAX + 1)},
    ),
    ("labels", {"a" * limits.LABEL_NAME_CHARS_MAX: ""}, {"a" * (limits.LABEL_NAME_CHARS_MAX + 1): ""}),
    ("labels", {"a": "b" * limits.LABEL_VALUE_CHARS_MAX}, {"a": "b" * (limits.LABEL_VALUE_CHARS_MAX + 1)}),
    (
        "headers",
        {f"X-{n}": "" for n in range(target.HEADERS_MAX)},
        {f"X-{n}": "" for n in range(target.HEADERS_MAX + 1)},
    ),
    ("url", f"{HERE:a<{target.URL_CHARS_MAX}}", f"{HERE:a<{target.URL_CHARS_MAX + 1}}"),
    ("callbacks", {"success": HERE}, {"success": f"{HERE:a<{target.URL_CHARS_MAX + 1}}"}),
]


@pytest.mark.parametrize(("field", "within", "beyond"), LIMITS, ids=lambda value: repr(value)[:20])
def test_both_have_the_same_limits(field: str, within: Any, beyond: Any) -> None:
    faults = [fault for fault in faults_of({"url": HERE, field: within}) if fault.code not in BEYOND]
    assert not faults
    assert SCHEMA.is_valid({"url": HERE, field: within})
    assert faults_of({"url": HERE, field: beyond})
    assert not SCHEMA.is_valid({"url": HERE, field: beyond})


@pytest.mark.parametrize(
    "task",
    [
        {"due_at": None, "delay": 5, "local_time": None},
        {"body": None, "body_text": "a", "body_base64": None},
        {"delay": "PT1H30M"},
        {"labels": {}, "retry": None, "expect": None},
        {"url": "HTTPS://example.com?a=@"},
    ],
)
def test_both_take(task: dict[str, Any]) -> None:
    asked = {"url": HERE} | task
    assert not faults_of(asked)
    assert SCHEMA.is_valid(asked)
