import base64
import json
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from libs.common.contracts import Call, Task, encode
from services.ingest.curl import curl_command
from services.ingest.stored import LastAttempt, StoredTask, just_created
from services.ingest.view import task_view

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def stored(call: Call, due_at: datetime = NOW) -> StoredTask:
    return just_created(
        Task(
            id=UUID(int=7), project="default", created_at=NOW, due_at=due_at, fingerprint="f",
            call=msgspec.Raw(encode(call)),
        )
    )  # fmt: skip


def shown(task: StoredTask, now: datetime = NOW) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(msgspec.json.encode(task_view(task, now)))
    return answer


def test_a_task_shows_what_was_sent_and_where_it_stands() -> None:
    answer = shown(
        stored(Call(url="http://x/", body=b'{"a" : 1}', headers=(("X-A", "b"), ("Content-Type", "application/json"))))
    )
    assert answer["headers"] == {"X-A": "b"}
    assert (answer["content_type"], answer["body"]) == ("application/json", {"a": 1})
    assert (answer["status"], answer["attempt_count"], answer["last_attempt"]) == ("scheduled", 0, None)
    assert answer["due_at"] == answer["next_attempt_at"] == "2026-11-21T12:00:00.000Z"
    assert answer["expect"] == {"status": ["2xx"], "body_contains": None}
    assert answer["retry"] == {"schedule_s": None, "respect_retry_after": True}


@pytest.mark.parametrize(
    ("body", "content_type", "field", "value"),
    [
        (b'{"a" : 1}', "application/problem+json", "body", {"a": 1}),
        (b"{broken", "application/json", "body_text", "{broken"),
        ("é".encode(), None, "body_text", "é"),
        (b"\xff\x00", "application/json", "body_base64", base64.b64encode(b"\xff\x00").decode()),
    ],
)
def test_a_body_is_shown_in_the_one_field_that_can_hold_it(
    body: bytes, content_type: str | None, field: str, value: object
) -> None:
    headers = (("Content-Type", content_type),) if content_type else ()
    answer = shown(stored(Call(url="http://x/", body=body, headers=headers)))
    assert {name: answer[name] for name in ("body", "body_text", "body_base64") if name in answer} == {field: value}


def test_a_scheduled_task_whose_time_has_passed_is_due() -> None:
    task = stored(Call(url="http://x/"))
    assert shown(task, NOW + timedelta(milliseconds=1))["status"] == "due"
    assert shown(task._replace(state="retrying"), NOW + timedelta(days=1))["status"] == "retrying"


def test_a_finished_task_has_no_next_attempt() -> None:
    task = stored(Call(url="http://x/"))._replace(
        state="failed", state_at=NOW, finished_at=NOW, last_attempt=LastAttempt(3, 500, "server_error", 12)
    )
    answer = shown(task)
    assert (answer["next_attempt_at"], answer["finished_at"]) == (None, "2026-11-21T12:00:00.000Z")
    assert answer["attempt_count"] == 3
    assert answer["last_attempt"] == {"number": 3, "status_code": 500, "error": "server_error", "duration_ms": 12}


def test_the_curl_command_survives_the_shell() -> None:
    call = Call(
        url="http://x/?a='b'&c=$(id)",
        method="PUT",
        headers=(("X-A", "it's"), ("X-Empty", "")),
        body="@é\n`id`".encode(),
    )
    words = shlex.split(curl_command(call))
    assert words[-1] == call.url
    assert words[words.index("--request") + 1] == "PUT"
    assert words[words.index("--data-raw") + 1].encode() == call.body
    assert [words[n + 1] for n, word in enumerate(words) if word == "--header"] == [
        "X-A: it's",
        "X-Empty;",
        "Content-Type:",
    ]


def test_a_binary_body_goes_through_base64() -> None:
    body = bytes(range(256))
    left, _pipe, right = curl_command(Call(url="http://x/", body=body)).rpartition(" | ")
    assert subprocess.run(["sh", "-c", left], capture_output=True, check=True).stdout == body
    assert "--data-binary @-" in right
