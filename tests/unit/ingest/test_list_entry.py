"""Entries of the Redis list: what task each becomes, or why none."""

import base64
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import format_utc
from libs.common.contracts import CreateTask, Task, decode_call, encode
from libs.common.egress import EgressRules
from libs.common.ids import new_id
from services.ingest.legacy import LegacyRules
from services.ingest.list_entry import EntryReader, moment_of
from services.ingest.problems import Problem

BYTES_MAX = 2048
PAST_DELAY_S = 10
ID = new_id()
NOW = moment_of(ID)
LATER = NOW + timedelta(days=1)


def reader(*, is_json_success: bool = False) -> EntryReader:
    return EntryReader("shop", LegacyRules("shop", PAST_DELAY_S, is_json_success), EgressRules(), BYTES_MAX)


def read(entry: Mapping[str, Any] | bytes, *, is_json_success: bool = False) -> Task:
    raw = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    return reader(is_json_success=is_json_success).task(ID, raw)


def refused(entry: Mapping[str, Any] | bytes) -> Problem:
    with pytest.raises(Problem) as caught:
        read(entry)
    return caught.value


def test_the_ancestors_entry_is_a_task_of_the_lists_project() -> None:
    entry = {
        "notify_url": " https://example.com/hook ",
        "plan_time": "2027-03-01T09:00:00+08:00",
        "method_name": "post",
        "notify_param": "a=1&b=2",
    }
    task = read(entry)
    call = decode_call(task.call)
    assert (task.id, task.project, task.created_at) == (ID, "shop", NOW)
    assert format_utc(task.due_at) == "2027-03-01T01:00:00.000Z"
    assert (call.url, call.method, call.body) == ("https://example.com/hook", "POST", b"a=1&b=2")
    assert ("Content-Type", "application/x-www-form-urlencoded") in call.headers


def test_without_a_method_it_is_a_get_with_its_parameters_as_the_query() -> None:
    task = read({"notify_url": "https://example.com/?x=0", "notify_param": "a=1", "queue_index": "ignored"})
    call = decode_call(task.call)
    assert (call.url, call.method, call.body) == ("https://example.com/?x=0&a=1", "GET", b"")


@pytest.mark.parametrize(
    "plan_time", [int(LATER.timestamp()), str(int(LATER.timestamp())), int(LATER.timestamp()) + 0.5]
)
def test_unix_seconds_are_read_as_well(plan_time: float | str) -> None:
    task = read({"notify_url": "https://example.com/", "plan_time": plan_time})
    assert abs(task.due_at - LATER) <= timedelta(seconds=1)


@pytest.mark.parametrize("plan_time", ["0001-01-01T00:00:00Z", "2020-01-01T00:00:00+08:00", 0, -1, "-5", "", "0", None])
def test_what_should_have_been_called_before_is_called_in_ten_seconds(plan_time: object) -> None:
    task = read({"notify_url": "https://example.com/", "plan_time": plan_time})
    assert task.due_at - NOW == timedelta(seconds=PAST_DELAY_S)


def test_a_native_entry_is_what_post_v1_tasks_makes_of_it() -> None:
    task = read({"url": "https://example.com/hook", "delay": "5m", "body": {"n": 1}, "labels": {"order": "42"}})
    call = decode_call(task.call)
    assert (task.due_at - NOW, task.labels) == (timedelta(minutes=5), {"order": "42"})
    assert (call.method, json.loads(call.body)) == ("POST", {"n": 1})


def test_the_ancestors_rule_of_success_holds_for_the_ancestors_entries_alone() -> None:
    legacy = read({"notify_url": "https://example.com/"}, is_json_success=True)
    native = read({"url": "https://example.com/"}, is_json_success=True)
    assert decode_call(legacy.call).expect_json_success
    assert not decode_call(native.call).expect_json_success


@pytest.mark.parametrize(
    "entry",
    [
        {"notify_url": "https://example.com/", "plan_time": ""},
        {"url": "https://example.com/", "delay": 90},
        {"url": "https://example.com/"},
    ],
)
def test_whoever_reads_an_entry_and_whenever_publishes_the_same_bytes(entry: Mapping[str, Any]) -> None:
    assert encode(CreateTask(task=read(entry))) == encode(CreateTask(task=read(entry)))


@pytest.mark.parametrize(
    ("entry", "code", "pointer"),
    [
        (b"no json", "malformed_json", None),
        (b"\xff\xfe", "malformed_json", None),
        (b'{"notify_url":"https://example.com/","notify_param":"\xff"}', "malformed_json", None),
        (b'{"body":' + b"[" * 2000, "malformed_json", None),
        (b"[]", "invalid_request", ""),
        (b"{}", "invalid_request", "/url"),
        ({"url": "ftp://example.com/"}, "invalid_request", "/url"),
        ({"url": "https://example.com/", "notify": 1}, "invalid_request", "/notify"),
        ({"notify_url": ""}, "invalid_request", ""),
        ({"notify_url": None}, "invalid_request", "/notify_url"),
        ({"notify_url": 7}, "invalid_request", "/notify_url"),
        ({"notify_url": "http://10.0.0.1/"}, "invalid_request", "/url"),
        ({"notify_url": "https://example.com/", "plan_time": "soon"}, "invalid_request", "/plan_time"),
        ({"notify_url": "https://example.com/", "plan_time": "2027-03-01T09:00:00"}, "invalid_request", "/plan_time"),
        ({"notify_url": "https://example.com/", "plan_time": 1e300}, "invalid_request", "/plan_time"),
        ({"notify_url": "https://example.com/", "plan_time": {}}, "invalid_request", "/plan_time"),
        ({"notify_url": "https://example.com/", "notify_param": "x" * BYTES_MAX}, "entry_too_large", None),
    ],
)
def test_an_entry_that_is_no_task_says_why(entry: Mapping[str, Any] | bytes, code: str, pointer: str | None) -> None:
    problem = refused(entry)
    assert problem.code == code
    assert [error.pointer for error in problem.errors] == ([] if pointer is None else [pointer])


def test_a_rejected_entry_can_be_pushed_again_from_what_is_written_of_it() -> None:
    raw = '{"url": "ftp://exämple.com/"}'.encode()
    record = json.loads(reader().rejected(raw, refused(raw), NOW))
    [error] = record["errors"]
    assert (record["code"], error["pointer"]) == ("invalid_request", "/url")
    assert record["rejected_at"] == format_utc(NOW)
    assert record["entry"].encode() == raw
    assert "is_cut" not in record


def test_a_rejected_entry_that_is_no_text_is_kept_as_base64() -> None:
    record = json.loads(reader().rejected(b"\xff\x00", refused(b"\xff\x00"), NOW))
    assert base64.b64decode(record["entry_base64"]) == b"\xff\x00"
    assert "entry" not in record


def test_of_an_entry_that_is_too_large_the_beginning_is_kept() -> None:
    raw = b"x" * (BYTES_MAX + 1)
    record = json.loads(reader().rejected(raw, refused(raw), NOW))
    assert record["is_cut"]
    assert record["entry"] == "x" * BYTES_MAX


def test_the_moment_of_an_id_is_when_it_was_made() -> None:
    assert format_utc(moment_of(UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"))) == "2022-02-22T19:22:22.000Z"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["notify_url", "plan_time", "method_name", "notify_param", "url", "due_at", "delay", "body", "headers", "retry"]
)
urls = st.just("https://example.com/") | st.text(max_size=30)


@given(
    st.binary(max_size=80)
    | st.dictionaries(names, json_values | urls, max_size=6).map(lambda d: json.dumps(d).encode())
)
def test_whatever_is_pushed_is_a_task_or_a_problem_that_can_be_written_down(raw: bytes) -> None:
    try:
        task = reader().task(ID, raw)
    except Problem as problem:
        record = json.loads(reader().rejected(raw, problem, NOW))
        kept = record["entry"].encode() if "entry" in record else base64.b64decode(record["entry_base64"])
        assert kept == raw
    else:
        assert NOW <= task.due_at
        assert encode(CreateTask(task=task))
