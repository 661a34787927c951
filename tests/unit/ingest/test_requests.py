from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from libs.common.contracts import Call, Task, decode_call
from libs.common.egress import EgressRules
from services.ingest.creation import Sender, create
from services.ingest.problems import Problem
from services.ingest.requests import read_task

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
URL = "https://example.com/hook"
SENDER = Sender(id=UUID(int=1), project="default", fingerprint="f" * 64, now=NOW)
EGRESS = EgressRules(["127.0.0.0/8", "::1/128"])


def created(**fields: Any) -> Task:
    return create(read_task(msgspec.json.encode({"url": URL, **fields})), SENDER, EGRESS)


def call(**fields: Any) -> Call:
    return decode_call(created(**fields).call)


def errors(raw: bytes | None = None, **fields: Any) -> list[tuple[str, str]]:
    with pytest.raises(Problem) as caught:
        create(read_task(msgspec.json.encode({"url": URL, **fields}) if raw is None else raw), SENDER, EGRESS)
    assert all(error.detail for error in caught.value.errors)
    return [(error.pointer, error.code) for error in caught.value.errors]


def test_a_url_alone_is_a_post_now_without_a_body() -> None:
    task = created()
    assert task.due_at == task.created_at == NOW
    assert (task.generation, task.attempt, task.hop) == (1, 1, 0)
    assert decode_call(task.call) == Call(url=URL)


@pytest.mark.parametrize(
    "body", [b'{"b" : 1,  "a":[1.0, 1e2]}', b"[]", b'"text"', b"0", b"false", '{"é":"\\u00e9"}'.encode()]
)
def test_a_json_body_keeps_its_bytes(body: bytes) -> None:
    task = create(read_task(b'{"url":"https://example.com/hook", "body": ' + body + b" }"), SENDER, EGRESS)
    read = decode_call(task.call)
    assert read.body == body
    assert read.headers == (("Content-Type", "application/json"),)


@pytest.mark.parametrize(
    ("fields", "body", "content_type"),
    [
        ({"body_text": "é"}, "é".encode(), "text/plain; charset=utf-8"),
        ({"body_base64": "AP8="}, b"\x00\xff", "application/octet-stream"),
        (
            {"body_text": "a=1", "content_type": "application/x-www-form-urlencoded"},
            b"a=1",
            "application/x-www-form-urlencoded",
        ),
        ({"body_text": "<a/>", "headers": {"content-TYPE": "text/xml"}}, b"<a/>", "text/xml"),
    ],
)
def test_a_body_brings_its_content_type(fields: dict[str, Any], body: bytes, content_type: str) -> None:
    read = call(**fields)
    assert (read.body, [value for _name, value in read.headers]) == (body, [content_type])


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"due_at": "2026-11-21T13:00:00+01:00"}, timedelta(0)),
        ({"due_at": "2026-11-21T12:00:00.0001Z"}, timedelta(milliseconds=1)),
        ({"due_at": NOW.timestamp() + 0.001}, timedelta(milliseconds=1)),
        ({"due_at": int(NOW.timestamp()) + 7}, timedelta(seconds=7)),
        ({"due_at": "2001-01-01T00:00:00Z"}, timedelta(0)),
        ({"due_at": -5}, timedelta(0)),
        ({"delay": 0}, timedelta(0)),
        ({"delay": 1.0001}, timedelta(milliseconds=1001)),
        ({"delay": "90s"}, timedelta(seconds=90)),
        ({"delay": "1.5h"}, timedelta(minutes=90)),
        ({"delay": "2d"}, timedelta(days=2)),
        ({"delay": "PT5M"}, timedelta(minutes=5)),
        ({"delay": "P1DT2H3M4.5S"}, timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
        ({"delay": "P2W"}, timedelta(weeks=2)),
    ],
)
def test_a_time_is_rounded_up_to_a_millisecond_and_the_past_means_now(fields: dict[str, Any], after: timedelta) -> None:
    assert created(**fields).due_at == NOW + after


@pytest.mark.parametrize(
    ("at", "due_at"),
    [
        ("2027-03-28T01:59:59", "2027-03-28T00:59:59Z"),
        ("2027-03-28T02:30:00", "2027-03-28T01:00:00Z"),  # does not exist: clocks go from 02:00 to 03:00
        ("2027-10-31T02:30:00", "2027-10-31T00:30:00Z"),  # exists twice
        ("2001-01-01T00:00:00", "2026-11-21T12:00:00Z"),
    ],
)
def test_a_local_time_is_resolved_by_the_rules_of_its_zone(at: str, due_at: str) -> None:
    task = created(local_time={"at": at, "timezone": "Europe/Paris"})
    assert task.due_at == datetime.fromisoformat(due_at)


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"due_at": "2027-01-01T00:00:00"}, "/due_at", "naive_time"),
        ({"due_at": "tomorrow"}, "/due_at", "not_a_time"),
        ({"due_at": "0001-01-01T00:00:00+23:59"}, "/due_at", "not_a_time"),
        ({"due_at": "2037-01-01T00:00:00Z"}, "/due_at", "too_far"),
        ({"due_at": NOW.timestamp() * 1000}, "/due_at", "too_far"),
        ({"due_at": 1e300}, "/due_at", "too_far"),
        ({"delay": -1}, "/delay", "negative"),
        ({"delay": "5 minutes"}, "/delay", "not_a_delay"),
        ({"delay": "P"}, "/delay", "not_a_delay"),
        ({"delay": "PT"}, "/delay", "not_a_delay"),
        ({"delay": "٣s"}, "/delay", "not_a_delay"),
        ({"delay": "9" * 70 + "s"}, "/delay", "not_a_delay"),
        ({"delay": "4000d"}, "/delay", "too_far"),
        ({"delay": 1e300}, "/delay", "too_far"),
        ({"delay": 1, "due_at": 1}, "/delay", "conflict"),
        ({"delay": "5m", "expires_at": "2026-11-21T12:05:00Z"}, "/expires_at", "too_early"),
        ({"body": {}, "body_text": ""}, "/body_text", "conflict"),
        ({"body_base64": "?"}, "/body_base64", "bad_base64"),
        ({"body_text": "", "content_type": "json"}, "/content_type", "bad_media_type"),
        ({"body_text": "", "content_type": "a/b;\n"}, "/content_type", "bad_media_type"),
        ({"content_type": "a/b", "headers": {"Content-Type": "a/b"}}, "/content_type", "conflict"),
        ({"timeout_s": 0}, "/timeout_s", "out_of_range"),
        ({"timeout_s": 60.1}, "/timeout_s", "out_of_range"),
        ({"timeout_s": "15"}, "/timeout_s", "wrong_type"),
        ({"retry": {"schedule_s": [1, 2, -1]}}, "/retry/schedule_s/2", "out_of_range"),
        ({"retry": {"schedule_s": [1, "2"]}}, "/retry/schedule_s/1", "wrong_type"),
        ({"retry": {"schedule_s": [1] * 51}}, "/retry/schedule_s", "too_many"),
        ({"retry": {"schedule": [1]}}, "/retry/schedule", "unknown_field"),
        ({"expect": {"status": []}}, "/expect/status", "out_of_range"),
        ({"expect": {"status": ["2xx", "6xx"]}}, "/expect/status/1", "bad_status"),
        ({"expect": {"body_contains": ""}}, "/expect/body_contains", "out_of_range"),
        ({"labels": {"a b": "1"}}, "/labels/a b", "bad_name"),
        ({"labels": {"a/b~": "x" * 257}}, "/labels/a~1b~0", "bad_name"),
        ({"labels": {"a": "\x00"}}, "/labels/a", "bad_value"),
        ({"labels": {str(n): "" for n in range(17)}}, "/labels", "too_many"),
        ({"local_time": {}}, "/local_time/at", "required"),
        ({"local_time": {"at": "2027-03-28T02:30:00", "zone": "UTC"}}, "/local_time/zone", "unknown_field"),
        (
            {"local_time": {"at": "2027-03-28T02:30:00", "timezone": "Europe/Pari"}},
            "/local_time/timezone",
            "unknown_zone",
        ),
        ({"local_time": {"at": "2027-03-28T02:30:00+01:00", "timezone": "Europe/Paris"}}, "/local_time/at", "offset"),
        ({"local_time": {"at": "half past two", "timezone": "Europe/Paris"}}, "/local_time/at", "not_a_time"),
        ({"local_time": {"at": "2099-03-28T02:30:00", "timezone": "Europe/Paris"}}, "/local_time/at", "too_far"),
        ({"local_time": {"at": "9999-12-31T23:59:59", "timezone": "America/Lima"}}, "/local_time/at", "too_far"),
        ({"delay": 1, "local_time": {"at": "2027-03-28T02:30:00", "timezone": "UTC"}}, "/local_time", "conflict"),
        ({"callbacks": {"succes": "https://example.com"}}, "/callbacks/succes", "unknown_field"),
        ({"callbacks": {"failure": "ftp://example.com"}}, "/callbacks/failure", "bad_scheme"),
        ({"callbacks": {"success": ""}}, "/callbacks/success", "bad_scheme"),
        ({"a/b": 1}, "/a~1b", "unknown_field"),
        ({"method": "TRACE"}, "/method", "wrong_type"),
        ({"url": None}, "/url", "wrong_type"),
    ],
)
def test_what_is_wrong_is_named_by_pointer_and_code(fields: dict[str, Any], pointer: str, code: str) -> None:
    assert (pointer, code) in errors(**fields)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("", "bad_scheme"),
        ("example.com/hook", "bad_scheme"),
        ("ftp://example.com", "bad_scheme"),
        ("javascript:alert(1)", "bad_scheme"),
        ("http://", "no_host"),
        ("http:///path", "no_host"),
        ("http://example.com:99999/", "bad_url"),
        ("http://[::1/", "bad_url"),
        ("http://user:secret@example.com/", "userinfo"),
        ("http://@example.com/", "userinfo"),
        ("http://example.com/#top", "fragment"),
        ("http://example.com/a b", "bad_character"),
        ("http://example.com/\r\nX-Evil: 1", "bad_character"),
        ("http://good.example\\@evil.example/", "bad_character"),
        ("http://example.com/" + "a" * 2048, "too_long"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused(url: str, code: str) -> None:
    assert ("/url", code) in errors(url=url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "HTTPS://EXAMPLE.com/%20?a=[1]&b=%zz", "http://[::1]/x", "https://bücher.example/"]
)
def test_a_url_stays_as_it_was_written(url: str) -> None:
    assert call(url=url).url == url


@pytest.mark.parametrize(
    "name",
    ["Host", "content-length", "Transfer-Encoding", "connection", "TE", "Trailer", "upgrade", "Keep-Alive", "Proxy-X",
     "Webhook-Id", "webhook-timestamp", "WEBHOOK-SIGNATURE", "carillon-attempt", "Idempotency-Key", "Forwarded",
     "X-Forwarded-For", "Cookie", "Expect"],
)  # fmt: skip
def test_a_header_that_is_ours_or_the_connections_is_refused(name: str) -> None:
    assert errors(headers={name: "x"}) == [(f"/headers/{name}", "reserved")]


@pytest.mark.parametrize(
    ("headers", "pointer", "code"),
    [
        ({"a b": ""}, "/headers/a b", "bad_name"),
        ({"": ""}, "/headers/", "bad_name"),
        ({"X-A/~": ""}, "/headers/X-A~1~0", "bad_name"),
        ({"X-A": "1\r\nX-B: 2"}, "/headers/X-A", "bad_value"),
        ({"X-A": "\x00"}, "/headers/X-A", "bad_value"),
        ({"X-A": "1", "x-a": "2"}, "/headers/x-a", "duplicate"),
        ({f"X-{n}": "" for n in range(51)}, "/headers", "too_many"),
        ({"X-A": "x" * 8193}, "/headers", "too_large"),
    ],
)
def test_a_header_that_would_break_the_request_is_refused(headers: dict[str, str], pointer: str, code: str) -> None:
    assert (pointer, code) in errors(headers=headers)


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = errors(url="ftp://x", timeout_s=0, retry={"schedule_s": [-1, 1e9]}, labels={"": ""}, due_at="soon")
    assert {pointer for pointer, _code in found} == {
        "/url", "/timeout_s", "/retry/schedule_s/0", "/retry/schedule_s/1", "/labels/", "/due_at",
    }  # fmt: skip


def test_a_missing_url_is_named() -> None:
    assert errors(b"{}") == [("/url", "required")]


@pytest.mark.parametrize("raw", [b"", b"{", b"nope", b'{"url":"\xff"}', b'{"body":' + b"[" * 9999])
def test_what_is_no_json_is_a_400(raw: bytes) -> None:
    with pytest.raises(Problem) as caught:
        read_task(raw)
    assert (caught.value.status, caught.value.code) == (400, "malformed_json")


def test_retry_and_expect_travel_in_the_call() -> None:
    read = call(
        retry={"schedule_s": [5, 0.5], "respect_retry_after": False},
        expect={"status": ["200", "3xx"], "body_contains": "ok"}, timeout_s=3, method="PUT",
    )  # fmt: skip
    assert (read.schedule_s, read.respect_retry_after) == ((5.0, 0.5), False)
    assert (read.expect_status, read.expect_body_contains) == (("200", "3xx"), "ok")
    assert (read.timeout_s, read.method) == (3.0, "PUT")


def test_an_empty_ladder_means_no_retry_and_none_means_the_installations() -> None:
    assert call(retry={"schedule_s": []}).schedule_s == ()
    assert call(retry={}).schedule_s is None
