"""What a hostile client sends, over HTTP: each a 4xx that names the field, and nothing is published."""

import json
from typing import Any

import pytest

from tests.http.conftest import BODY_BYTES_MAX, Client, FakeBroker

URL = "https://example.com/hook"
DEEP = 10_000


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


async def refused(client: Client, broker: FakeBroker, raw: bytes | str) -> tuple[int, list[tuple[str, str]]]:
    """(status, [(pointer, code)])"""
    data = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else raw
    response = await client.post("/v1/tasks", data=data, headers={"Content-Type": "application/json"})
    assert response.content_type == "application/problem+json", await response.text()
    problem = await response.json()
    assert problem["status"] == response.status
    assert problem["detail"]
    assert broker.published == []
    return response.status, [(error["pointer"], error["code"]) for error in problem["errors"]]


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        # times
        ({"due_at": "2027-03-01T09:00:00"}, "/due_at", "naive_time"),
        ({"due_at": "2027-02-30T09:00:00Z"}, "/due_at", "not_a_time"),
        ({"due_at": "0000-00-00T00:00:00Z"}, "/due_at", "not_a_time"),
        ({"due_at": "9999-12-31T23:59:59-23:59"}, "/due_at", "not_a_time"),
        ({"due_at": "2" * 3000}, "/due_at", "not_a_time"),
        ({"due_at": 1e300}, "/due_at", "too_far"),
        ({"due_at": -1e300}, "/due_at", "too_far"),
        ({"due_at": 2**64 - 1}, "/due_at", "too_far"),
        ({"due_at": True}, "/due_at", "wrong_type"),
        ({"expires_at": "tomorrow"}, "/expires_at", "not_a_time"),
        ({"delay": "P" + "1" * 3000 + "D"}, "/delay", "not_a_delay"),
        ({"delay": "\N{FULLWIDTH DIGIT FIVE}m"}, "/delay", "not_a_delay"),
        ({"delay": 1e300}, "/delay", "too_far"),
        ({"delay": -0.001}, "/delay", "negative"),
        ({"local_time": {"at": "2027-03-01T09:00:00", "timezone": "Mars/X"}}, "/local_time/timezone", "unknown_zone"),
        ({"local_time": {"at": "2027-03-01T09:00:00", "timezone": "../etc"}}, "/local_time/timezone", "unknown_zone"),
        ({"local_time": {"at": "2027-03-01T09:00:00", "timezone": "UTC\0"}}, "/local_time/timezone", "unknown_zone"),
        ({"local_time": {"at": "2027-03-01T09:00:00Z", "timezone": "UTC"}}, "/local_time/at", "offset"),
        ({"local_time": {"at": "2027-03-01T09:00:00" + "0" * 100, "timezone": "UTC"}}, "/local_time/at", "not_a_time"),
        ({"local_time": {"at": "2027-03-01T09:00:00.5" + "0" * 60, "timezone": "UTC"}}, "/local_time/at", "not_a_time"),
        # URLs
        ({"url": "https://user:secret@example.com/"}, "/url", "userinfo"),
        ({"url": "https://@example.com/"}, "/url", "userinfo"),
        ({"url": "https://example.com/\r\nHost: other"}, "/url", "bad_character"),
        ({"url": "https://example.com/\0"}, "/url", "bad_character"),
        ({"url": "https://example.com\\@other.example/"}, "/url", "bad_character"),
        ({"url": "https://example.com/" + "a" * 3000}, "/url", "too_long"),
        ({"url": "javascript:alert(1)"}, "/url", "bad_scheme"),
        ({"url": "file:///etc/passwd"}, "/url", "bad_scheme"),
        ({"url": "https://"}, "/url", "no_host"),
        ({"url": "https://example.com:99999/"}, "/url", "bad_url"),
        ({"url": "https://[::1/"}, "/url", "bad_url"),
        ({"url": "http://0x7f.1/"}, "/url", "blocked_address"),
        ({"url": "http://169.254.169.254/"}, "/url", "blocked_address"),
        ({"callbacks": {"failure": "gopher://example.com/"}}, "/callbacks/failure", "bad_scheme"),
        # headers
        ({"headers": {"X-A": "b\r\nX-Injected: c"}}, "/headers/X-A", "bad_value"),
        ({"headers": {"X-A": "b\0"}}, "/headers/X-A", "bad_value"),
        ({"headers": {"X-A\r\nX-B": "c"}}, "/headers/X-A\r\nX-B", "bad_name"),
        ({"headers": {"X-A:": "c"}}, "/headers/X-A:", "bad_name"),
        ({"headers": {"": "c"}}, "/headers/", "bad_name"),
        ({"headers": {"hOsT": "c"}}, "/headers/hOsT", "reserved"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "/headers/Transfer-Encoding", "reserved"),
        ({"headers": {"webhook-signature": "v1,x"}}, "/headers/webhook-signature", "reserved"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "/headers/x-a", "duplicate"),
        ({"headers": {f"X-{n}": "" for n in range(51)}}, "/headers", "too_many"),
        ({"content_type": "text/plain\r\nX-A: b"}, "/content_type", "bad_media_type"),
        # texts
        ({"labels": {"a": "b\0"}}, "/labels/a", "bad_value"),
        ({"labels": {"a\0": "b"}}, "/labels/a\0", "bad_name"),
        ({"labels": {"a": 1}}, "/labels", "wrong_type"),
        ({"body_base64": "not base64!"}, "/body_base64", "bad_base64"),
        ({"expect": {"status": ["2xx\n"]}}, "/expect/status/0", "bad_status"),
        ({"timeout_s": 1e300}, "/timeout_s", "out_of_range"),
        ({"retry": {"schedule_s": [1] * 51}}, "/retry/schedule_s", "too_many"),
        ({"__proto__": {}}, "/__proto__", "unknown_field"),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
async def test_a_hostile_field_is_named(
    client: Client, broker: FakeBroker, fields: dict[str, Any], pointer: str, code: str
) -> None:
    told = await refused(client, broker, json.dumps({"url": URL} | fields))
    assert told == (422, [(pointer, code)])


@pytest.mark.parametrize(
    ("raw", "status", "told"),
    [
        (f'{{"url":"{URL}","body":{nested(1900)}}}', 400, []),
        ('{"url":' + nested(1000) + "}", 422, [("/url", "wrong_type")]),
        (f'{{"url":"{URL}","delay":1e999}}', 422, [("/delay", "wrong_type")]),
        (f'{{"url":"{URL}","delay":{10**400}}}', 422, [("/delay", "too_far")]),
        (f'{{"url":"{URL}","delay":-{"9" * 400}}}', 422, [("/delay", "negative")]),
        (f'{{"url":"{URL}","timeout_s":NaN}}', 400, []),
        (f'{{"url":"{URL}","delay":0x10}}', 400, []),
        (f'{{"url":"{URL}","url":"{URL}"}}', 422, [("/url", "duplicate")]),
        (f'{{"url":"{URL}","headers":{{"X-A":"1","X-A":"2"}}}}', 422, [("/headers/X-A", "duplicate")]),
        (f'{{"url":"{URL}","labels":{{"a":"\\ud800"}}}}', 422, [("/labels/a", "bad_value")]),
        (f'{{"url":"{URL}","labels":{{"a":"\ud800"}}}}', 400, []),  # as bytes of no UTF-8
        (f'\ufeff{{"url":"{URL}"}}', 400, []),
        (f'{{"url":"{URL}"}} {{}}', 400, []),
        (f'{{"url":"{URL}",}}', 400, []),
        (f'{{"url":"{URL}","body":"\n"}}', 400, []),
        (b"\xff\xfe{\x00}\x00", 400, []),
        (b"\0" * 100, 400, []),
        ("null", 422, [("", "wrong_type")]),
        ("[]", 422, [("", "wrong_type")]),
        ('"' + "a" * 3000 + '"', 422, [("", "wrong_type")]),
    ],
    ids=lambda value: repr(value)[:60],
)
async def test_hostile_json_is_refused(
    client: Client, broker: FakeBroker, raw: bytes | str, status: int, told: list[tuple[str, str]]
) -> None:
    assert await refused(client, broker, raw) == (status, told)


class TestOfALargeInstallation:
    """Where bodies of 256 KiB are taken, so that depth is what refuses."""

    @pytest.fixture
    def body_bytes_max(self) -> int:
        return 262_144

    @pytest.mark.parametrize(
        ("raw", "status"),
        [
            (f'{{"url":"{URL}","delay":{"9" * 5000}}}', 422),
            (f'{{"url":"{URL}","body":{nested(DEEP)}}}', 400),
            (f'{{"url":"{URL}","labels":{{"a":{nested(DEEP)}}}}}', 422),
            (f'{{"url":"{URL}","body":' + '{"a":' * DEEP + "1" + "}" * DEEP + "}", 400),
            ("[" * 200_000, 422),
        ],
        ids=["digits", "in body", "in a label", "objects", "never closed"],
    )
    async def test_json_of_great_depth_or_length_is_refused(
        self, client: Client, broker: FakeBroker, raw: str, status: int
    ) -> None:
        assert (await refused(client, broker, raw))[0] == status


@pytest.mark.parametrize(("over", "status"), [(0, 201), (1, 413)])
async def test_the_limit_of_the_body_is_exact(client: Client, over: int, status: int) -> None:
    raw = json.dumps({"url": URL, "body_text": ""}).encode()
    raw = raw.replace(b'""', b'"' + b"a" * (BODY_BYTES_MAX + over - len(raw)) + b'"')
    response = await client.post("/v1/tasks", data=raw, headers={"Content-Type": "application/json"})
    assert response.status == status


@pytest.mark.parametrize("id_", ["%00", "%ff", "..%2f..%2fetc", "%0d%0aX-A:b", "a" * 3000])
async def test_a_hostile_path_finds_nothing(client: Client, id_: str) -> None:
    response = await client.get(f"/v1/tasks/{id_}")
    assert response.status == 404
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("value", ["a b", "a\tb", "\u00e9", "a" * 256])
async def test_a_hostile_idempotency_key_is_refused(client: Client, broker: FakeBroker, value: str) -> None:
    response = await client.post("/v1/tasks", json={"url": URL}, headers={"Idempotency-Key": value})
    assert (response.status, (await response.json())["code"]) == (422, "bad_idempotency_key")
    assert broker.published == []


async def test_a_hostile_request_id_is_not_echoed(client: Client) -> None:
    response = await client.post("/v1/tasks", json={}, headers={"X-Request-Id": "a" * 129})
    assert response.headers["X-Request-Id"] != "a" * 129
