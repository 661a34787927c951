"""The command `carillon`: what it asks, what it prints, and the code it ends with."""

import asyncio
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from carillon.command import app
from carillon.command.show import Output, length, safe
from typer.testing import CliRunner, Result

from tests.client.conftest import KEY, TASK, Answer, Server, Time, problem
from tests.conftest import ROOT

Run = Callable[..., Awaitable[Result]]

SUCCEEDED = {
    **TASK, "status": "succeeded", "due_at": "2026-11-21T09:00:00.000Z", "attempt_count": 1, "labels": {"order": "42"},
    "last_attempt": {"number": 1, "status_code": 200, "error": None, "duration_ms": 12}, "lateness_ms": 3,
}  # fmt: skip
FAILED = {**SUCCEEDED, "status": "failed", "last_attempt": {"number": 1, "status_code": 500, "error": "server_error"}}
ATTEMPT = {
    "number": 1, "status_code": 200, "duration_ms": 12, "response_headers": [["X-Shop", "1\x1b[2J"]],
    "response_body": "two\nlines [red]\x1b]0;owned\x07", "curl": "curl 'https://example.com/hook'",
}  # fmt: skip
EXPLANATION = {
    "code": "overdue", "sentence": "It waits.", "because": [{"code": "target_paused", "detail": "Paused."}],
    "what_would_move_it": [{"code": "resume_target", "detail": "Resume it."}],
}  # fmt: skip
SCHEDULE = {
    "name": "nightly", "status": "active", "cron": "0 2 * * *", "timezone": "UTC", "task": {"url": "https://a.example"},
}  # fmt: skip


@pytest.fixture
def run(server: Server, environment: Callable[..., None]) -> Run:
    """`carillon ...` with the server's address and a key; the server answers meanwhile."""
    environment(CARILLON_URL=server.url, CARILLON_KEY=KEY)

    async def invoke(*words: str, stdin: str | None = None) -> Result:
        result = await asyncio.to_thread(CliRunner().invoke, app, words, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


async def test_a_task_is_added_with_all_that_was_said(run: Run, server: Server, tmp_path: Path) -> None:
    server.will(Answer(201, TASK))
    (tmp_path / "body").write_text('{"a" : 1.0}')
    result = await run(
        "task", "add", "https://example.com/hook", "--delay", "5m", "--body", f"@{tmp_path / 'body'}", "-X", "put",
        "-H", "X-A: b: c", "-H", "X-B:d", "-l", "order=42=1", "--timeout-s", "3", "--retry", "5,0.5",
        "--expect-status", "2xx,404", "--expect-body", "ok", "--on-failure", "https://example.com/failed",
        "--expires-at", "2027-03-02T09:00:00Z", "--content-type", "application/x", "--idempotency-key", "mine",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert server.only.json == {
        "url": "https://example.com/hook", "delay": "5m", "body": {"a": 1.0}, "method": "PUT",
        "headers": {"X-A": "b: c", "X-B": "d"}, "labels": {"order": "42=1"}, "timeout_s": 3.0,
        "retry": {"schedule_s": [5.0, 0.5]}, "expect": {"status": ["2xx", "404"], "body_contains": "ok"},
        "callbacks": {"failure": "https://example.com/failed"}, "expires_at": "2027-03-02T09:00:00Z",
        "content_type": "application/x",
    }  # fmt: skip
    assert b'{"a" : 1.0}' in server.only.body  # to the byte
    assert server.only.headers["idempotency-key"] == "mine"
    assert "019a-1" in result.stdout
    assert "scheduled" in result.stdout


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        ((), {}),
        (("--delay", "90"), {"delay": 90.0}),
        (("--due-at", "2027-03-01T09:00:00Z"), {"due_at": "2027-03-01T09:00:00Z"}),
        (("--due-at", "1803891600"), {"due_at": 1803891600.0}),
        (
            ("--local-time", "2027-03-28T02:30:00", "--timezone", "Europe/Paris"),
            {"local_time": {"at": "2027-03-28T02:30:00", "timezone": "Europe/Paris"}},
        ),
        (("--body-text", "hello"), {"body_text": "hello"}),
        (("--body", "@-"), {"body": {"from": "stdin"}}),
        (("--body-file", "-"), {"body_base64": "eyJmcm9tIjogInN0ZGluIn0="}),
        (("--retry", "never"), {"retry": {"schedule_s": []}}),
    ],
)
async def test_a_time_and_a_body_may_be_said_in_each_way(
    run: Run, server: Server, words: tuple[str, ...], sent: dict[str, Any]
) -> None:
    server.will(Answer(201, TASK))
    result = await run("task", "add", "https://example.com/hook", *words, stdin='{"from": "stdin"}')
    assert result.exit_code == 0, result.output
    assert server.only.json == {"url": "https://example.com/hook", **sent}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("task", "add"), "URL"),
        (("task", "add", "u", "--body", "{"), "--body"),
        (("task", "add", "u", "--body", "hello"), "--body-text"),
        (("task", "add", "u", "--body", "@/nowhere"), "/nowhere"),
        (("task", "add", "u", "--body-file", "/nowhere"), "/nowhere"),
        (("task", "add", "u", "--header", "X"), "--header"),
        (("task", "add", "u", "--label", "=x"), "--label"),
        (("task", "add", "u", "--retry", "soon"), "--retry"),
        (("task", "add", "u", "--timeout-s", "soon"), "--timeout-s"),
        (("task", "add", "u", "--timezone", "UTC"), "--local-time"),
        (("task", "get", ""), "no name of anything"),
        (("task", "cancel"), "--label"),
        (("task", "cancel", "x", "--status", "due"), "id of one task"),
        (("task", "redrive", "x", "--dry-run"), "id of one task"),
        (("task", "gte", "x"), "gte"),
        (("task", "get", "x", "--jsno"), "--json"),
        (("schedule", "preview"), "--cron"),
        (("schedule", "put", "n", "u", "--cron", "* * * * *", "--every", "5m"), "--every"),
        (("key", "create", "shop"), "--scope"),
        (("target", "limit", "a.example"), "--per-s"),
        (("task", "cancel", "x", "--all"), "id of one task"),
        (("dlq", "drop", "p1"), "--reason"),
        (("target", "limit", "a.example", "--none", "--per-s", "5"), "--none"),
        (("task", "get", "x", "--url", "localhost:8080"), "https://"),
        (("task", "get", "x", "--key", "a b"), "key"),
    ],
)
async def test_a_mistake_in_the_command_line_is_named_and_nothing_asked(
    run: Run, server: Server, words: tuple[str, ...], named: str
) -> None:
    result = await run(*words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output
    assert server.seen == []


@pytest.mark.parametrize("missing", ["CARILLON_URL", "CARILLON_KEY"])
async def test_what_is_not_set_is_named(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(missing)
    result = await run("task", "get", "x")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert missing in result.stderr


async def test_the_options_win_over_the_environment(run: Run, server: Server) -> None:
    server.will(Answer(200, TASK))
    await run("task", "get", "x", "--key", "another", "--url", f"{server.url}/base")
    assert (server.only.path, server.only.headers["authorization"]) == ("/base/v1/tasks/x", "Bearer another")


async def test_a_no_of_the_api_names_each_field_and_ends_with_1(run: Run, server: Server) -> None:
    errors = [
        {"pointer": "/delay", "code": "not_a_delay", "detail": "is no delay; write 5m"},
        {"pointer": "/retry/schedule_s/2", "code": "out_of_range", "detail": "is out of range\x1b[31m"},
    ]
    server.will(problem(422, "invalid_request", errors=errors))
    result = await run("task", "add", "https://example.com/hook", "--delay", "soon")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error: delay: is no delay; write 5m",
        "error: retry.schedule_s.2: is out of range\\x1b[31m",
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (problem(401, "unauthorized"), ["CARILLON_KEY or --key"]),
        (problem(403, "forbidden", "This needs the scope admin."), ["This needs the scope admin."]),
        (problem(404, "not_found", "There is no task x. Check the id."), ["There is no task x. Check the id."]),
        (problem(409, "final", "It is final."), ["It is final."]),
        (problem(500, "internal_error", "A fault of Carillon.", Retry_After="99"), ["A fault", "request_id req-1"]),
    ],
)
async def test_each_no_is_one_or_two_lines(run: Run, server: Server, answer: Answer, said: list[str]) -> None:
    server.will(answer)
    result = await run("task", "cancel", "x")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith("error: ") and text in line for line, text in zip(lines, said, strict=True))


async def test_nobody_there_ends_with_3_and_names_the_remedy(run: Run, time: Time) -> None:
    result = await run("task", "get", "x", "--url", "http://127.0.0.1:1")
    assert result.exit_code == 3
    [line] = result.stderr.splitlines()
    assert "no connection to http://127.0.0.1:1" in line
    assert "CARILLON_URL" in line
    assert sum(time.slept) < 10


async def test_a_cut_connection_warns_that_it_may_have_happened(run: Run, server: Server) -> None:
    server.will(Answer(how="cut"))
    result = await run("task", "run", "x")
    assert result.exit_code == 3
    assert "may have happened" in result.stderr.splitlines()[1]


async def test_what_is_not_carillon_ends_with_3(run: Run, server: Server) -> None:
    server.will(Answer(200, b"<html>"))
    result = await run("task", "get", "x")
    assert (result.exit_code, len(result.stderr.splitlines())) == (3, 1)


async def test_a_task_is_a_card_for_a_person_and_json_for_a_script(run: Run, server: Server) -> None:
    server.will(Answer(200, SUCCEEDED), Answer(200, SUCCEEDED))
    card = (await run("task", "get", "019a-1")).stdout
    for said in ("019a-1", "succeeded", "POST https://example.com/hook", "2026-11-21 09:00:00Z", "order=42", "3 ms"):
        assert said in card
    result = await run("task", "get", "019a-1", "--json")
    task = json.loads(result.stdout)
    assert {name: task[name] for name in ("id", "status", "labels", "lateness_ms")} == {
        "id": "019a-1", "status": "succeeded", "labels": {"order": "42"}, "lateness_ms": 3,
    }  # fmt: skip


async def test_a_list_is_a_table_or_a_document_a_line(run: Run, server: Server) -> None:
    long = {**SUCCEEDED, "id": "019a-2", "url": "https://example.com/" + "x" * 300}
    page = Answer(200, {"data": [SUCCEEDED, long], "next_cursor": "c"})
    server.will(page, Answer(200, {"data": [FAILED], "next_cursor": None}), page)
    table = (await run("task", "list", "--status", "failed", "-l", "order=42", "-n", "0")).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["ID", "019a-1", "019a-2", "019a-1"]
    assert "x" * 300 in table[2]  # a pipe loses nothing
    assert "500 server_error" in table[3]
    assert server.seen[0].path == "/v1/tasks?status=failed&label.order=42&limit=250"
    lines = (await run("task", "list", "--json", "-n", "2")).stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["019a-1", "019a-2"]
    assert server.seen[-1].path == "/v1/tasks?limit=2"


async def test_json_leaves_out_what_a_list_does_not_tell(run: Run, server: Server) -> None:
    server.will(Answer(200, {"data": [{**TASK, "attempt_count": 0, "lateness_ms": None}], "next_cursor": None}))
    task = json.loads((await run("task", "list", "--json")).stdout)
    assert task == {**TASK, "project": "", "method": "POST", "attempt_count": 0}


async def test_an_explanation_tells_the_reasons_and_what_to_do(run: Run, server: Server) -> None:
    server.will(Answer(200, EXPLANATION), Answer(200, {"code": "succeeded", "sentence": "It is done."}))
    lines = (await run("task", "explain", "x")).stdout.splitlines()
    words = [line.split() for line in lines]
    assert words == [
        ["It", "waits."], ["WHY"], ["target_paused", "Paused."],
        ["WHAT", "WOULD", "MOVE", "IT"], ["resume_target", "Resume", "it."],
    ]  # fmt: skip
    assert (await run("task", "explain", "x")).stdout == "It is done.\n"


async def test_an_empty_list_prints_nothing_for_a_pipe(run: Run, server: Server) -> None:
    server.will(Answer(200, {"data": [], "next_cursor": None}))
    result = await run("schedule", "list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "none\n")


async def test_attempts_are_a_table_and_one_of_them_is_shown_whole(run: Run, server: Server) -> None:
    page = Answer(200, {"data": [{**ATTEMPT, "number": 2, "status_code": 503}, ATTEMPT], "next_cursor": None})
    server.will(page, page, page)
    table = (await run("task", "attempts", "x")).stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["2", "503"], ["1", "200"]]
    one = (await run("task", "attempts", "x", "-n", "1")).stdout
    assert "HTTP 200" in one
    assert "curl 'https://example.com/hook'" in one
    assert "503" not in one
    assert len((await run("task", "attempts", "x", "--json")).stdout.splitlines()) == 2


async def test_nothing_that_was_answered_can_write_to_the_terminal(run: Run, server: Server) -> None:
    server.will(Answer(200, {"data": [ATTEMPT], "next_cursor": None}))
    shown = (await run("task", "attempts", "x", "-n", "1")).stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "X-Shop: 1\\x1b[2J" in shown
    assert "two\nlines [red]\\x1b]0;owned\\x07" in shown
    server.will(Answer(200, {**TASK, "url": "https://x/[red]a[/red]\u202e\x9b31m", "labels": {"a\nb": ":smile:"}}))
    shown = (await run("task", "get", "x")).stdout
    assert "https://x/[red]a[/red]\\u202e\\x9b31m" in shown
    assert "a\\nb=:smile:" in shown


@pytest.mark.parametrize(("last", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
async def test_a_watch_tells_each_change_and_ends_by_what_became_of_it(
    run: Run, server: Server, monkeypatch: pytest.MonkeyPatch, last: str, code: int
) -> None:
    monkeypatch.setattr("carillon.tasks.sleep", Time().sleep)
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    tried = {"number": 1, "status_code": 503, "error": "server_error", "duration_ms": 12}
    retrying = {**TASK, "status": "retrying", "next_attempt_at": at, "last_attempt": tried}
    server.will(Answer(200, TASK), Answer(200, TASK), Answer(200, retrying), Answer(200, {**TASK, "status": last}))
    result = await run("task", "watch", "x")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["scheduled", "retrying", last]
    assert "attempt 1: 503 server_error after 12 ms, call at " in lines[1]
    assert result.exit_code == code


async def test_send_test_calls_once_now_and_prints_what_was_answered(run: Run, server: Server) -> None:
    server.will(Answer(201, TASK), Answer(200, SUCCEEDED), Answer(200, {"data": [ATTEMPT], "next_cursor": None}))
    result = await run("send-test", "https://example.com/hook")
    sent = server.seen[0].json
    assert (sent["url"], sent["retry"]) == ("https://example.com/hook", {"schedule_s": []})
    assert sent["body"]["carillon"] == "test"
    assert not {"delay", "due_at"} & sent.keys()
    assert "HTTP 200, after 12 ms" in result.stdout
    assert "two\nlines" in result.stdout
    assert result.exit_code == 0


async def test_send_test_of_a_receiver_that_is_down_says_why_and_ends_with_1(run: Run, server: Server) -> None:
    attempt = {"number": 1, "error": "connect", "error_detail": "Connection refused", "duration_ms": 1}
    server.will(Answer(201, TASK), Answer(200, FAILED), Answer(200, {"data": [attempt], "next_cursor": None}))
    result = await run("send-test", "https://example.com/hook", "--body-text", "mine", "--retry", "1")
    assert server.seen[0].json == {
        "url": "https://example.com/hook", "retry": {"schedule_s": [1.0]}, "labels": {"carillon": "test"},
        "body_text": "mine",
    }  # fmt: skip
    assert "no answer: connect after 1 ms Connection refused" in result.stdout
    assert result.exit_code == 1


ASKED: list[tuple[tuple[str, ...], str, Any, Any, str]] = [
    (("task", "explain", "x"), "GET /v1/tasks/x/explain", None, EXPLANATION, "It waits."),
    (("task", "cancel", "x"), "DELETE /v1/tasks/x", None, {**TASK, "status": "cancelled"}, "019a-1 cancelled"),
    (("task", "cancel", "x"), "DELETE /v1/tasks/x", None, {**TASK, "status": "retrying"}, "not known yet"),
    (("task", "run", "x"), "POST /v1/tasks/x/run", None, {**TASK, "status": "due"}, "019a-1 due"),
    (("task", "redrive", "x"), "POST /v1/tasks/x/redrive", None, TASK, "019a-1 scheduled"),
    (
        ("task", "cancel", "-l", "order=42", "--due-to", "5", "--dry-run"), "POST /v1/tasks/cancel",
        {"filter": {"label.order": "42", "due_to": "5.0"}, "dry_run": True}, {"matched": 3}, "3 tasks would be",
    ),
    (
        ("task", "redrive", "--status", "failed"), "POST /v1/tasks/redrive",
        {"filter": {"status": "failed"}, "dry_run": False}, {"matched": 3, "is_exact": False},
        "3 or more tasks start again",
    ),
    (
        ("task", "cancel", "--all"), "POST /v1/tasks/cancel", {"filter": {"all": True}, "dry_run": False},
        {"matched": 3}, "3 tasks are being",
    ),
    (
        ("schedule", "put", "nightly", "https://a.example", "--cron", "0 2 * * *", "--timezone", "UTC", "-d", "[1]",
         "--catch-up", "none", "--expires-after-s", "60"),
        "PUT /v1/schedules/nightly",
        {"cron": "0 2 * * *", "timezone": "UTC", "catch_up": "none", "expires_after_s": 60.0,
         "task": {"url": "https://a.example", "body": [1]}},
        SCHEDULE, "0 2 * * * UTC",
    ),
    (("schedule", "get", "nightly"), "GET /v1/schedules/nightly", None, SCHEDULE, "nightly"),
    (("schedule", "pause", "nightly"), "POST /v1/schedules/nightly/pause", None, SCHEDULE, "nightly"),
    (("schedule", "resume", "nightly"), "POST /v1/schedules/nightly/resume", None, SCHEDULE, "active"),
    (("schedule", "run", "nightly"), "POST /v1/schedules/nightly/run", None, {"task_id": "t1"}, "t1"),
    (("schedule", "delete", "nightly"), "DELETE /v1/schedules/nightly", None, None, "nightly deleted"),
    (
        ("schedule", "preview", "--every", "5m", "-n", "1"), "POST /v1/schedules/preview", {"every": "5m", "count": 1},
        {"data": [{"at": "2027-01-01T00:00:00Z", "local": "01:00", "dst": "gap", "meant": "00:30"}]}, "gap 00:30",
    ),
    (
        ("key", "create", "shop", "--scope", "tasks:write", "--scope", "tasks:read"), "POST /v1/keys",
        {"name": "shop", "scopes": ["tasks:write", "tasks:read"]}, {"id": "k1", "key": "ck_1"}, "ck_1",
    ),
    (("key", "list"), "GET /v1/keys", None, {"data": [{"id": "k1", "name": "shop"}], "next_cursor": None}, "shop"),
    (("key", "revoke", "k1", "--project", "b"), "DELETE /v1/keys/k1?project=b", None, {"id": "k1"}, "k1 revoked"),
    (("key", "rotate", "k1", "--overlap-s", "60"), "POST /v1/keys/k1/rotate", {"overlap_s": 60.0}, {"id": "k1"}, "k1"),
    (("target", "list"), "GET /v1/targets", None, {"data": [{"host": "a.example"}], "next_cursor": None}, "a.example"),
    (
        ("target", "pause", "a.example"), "POST /v1/targets/a.example/pause", None,
        {"host": "a.example", "is_paused": True}, "yes",
    ),
    (
        ("target", "limit", "a.example", "--per-s", "5", "--burst", "2"), "PUT /v1/targets/a.example",
        {"per_s": 5.0, "burst": 2},
        {"host": "a", "per_s": 5.0, "breaker": {"state": "open", "until": "2027-01-01T00:00:00Z"}},
        "open until 2027-01-01 00:00:00Z",
    ),
    (
        ("target", "limit", "a.example", "--none"), "PUT /v1/targets/a.example", {"per_s": None, "burst": 1},
        {"host": "a"}, "no limit",
    ),
    (("target", "resume", "a.example"), "POST /v1/targets/a.example/resume", None, {"host": "a"}, "no limit"),
    (("digest", "preview"), "GET /v1/digest/preview", None, {"subject": "s", "text": "3 x failed"}, "3 x failed"),
    (("digest", "now"), "POST /v1/digest/send", None, {"pages": 2}, "2 mails on their way"),
    (("digest", "now"), "POST /v1/digest/send", None, {"pages": 0}, "nothing waits"),
    (("dlq", "list"), "GET /v1/parked", None, {"data": [{"id": "p1", "cause": "crash"}], "next_cursor": None}, "crash"),
    (("dlq", "show", "p1"), "GET /v1/parked/p1", None, {"id": "p1", "cause": "crash", "task_id": "t1"}, "t1"),
    (("dlq", "list", "--origin", "q"), "GET /v1/parked?origin=q", None, {"data": [{"id": "p1"}]}, "p1"),
    (
        ("dlq", "redrive", "p1"), "POST /v1/parked/p1/redrive", None, {"id": "p1", "origin": "q", "items": 2},
        "p1 redriven: 2 items to q",
    ),
    (("dlq", "drop", "p1", "--reason", "old"), "DELETE /v1/parked/p1", {"reason": "old"}, None, "p1 dropped"),
    (
        ("notice", "disk full", "-s", "disk"), "POST /fallback", {"message": "disk full", "subject": "disk"},
        {"id": "n1"}, "n1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "asked", "body", "answer", "said"), ASKED, ids=[" ".join(a[0]) for a in ASKED])
async def test_a_command_asks_the_api_and_says_what_it_was_told(
    run: Run, server: Server, words: tuple[str, ...], asked: str, body: Any, answer: Any, said: str
) -> None:
    server.will(*[Answer(204 if answer is None else 200, answer)] * 2)
    result = await run(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{server.only.method} {server.only.path}" == asked
    assert (server.only.json if server.only.body else None) == body
    assert said in result.stdout
    result = await run(*words, "--json")
    assert result.exit_code == 0
    for line in result.stdout.splitlines():
        json.loads(line)
    assert result.stdout


def groups() -> list[tuple[str, ...]]:
    names = {group.name: group.typer_instance for group in app.registered_groups}
    of_groups = [(str(name), str(one.name)) for name, each in names.items() if each for one in each.registered_commands]
    return [*of_groups, *((str(one.name),) for one in app.registered_commands)]


def test_there_is_a_command_for_all_that_was_promised() -> None:
    assert {" ".join(words) for words in groups()} == {
        *(f"task {name}" for name in "add get list cancel run redrive watch attempts explain".split()),
        *(f"schedule {name}" for name in "put get list pause resume run delete preview".split()),
        *(f"key {name}" for name in "create list revoke rotate".split()),
        *(f"target {name}" for name in "list pause resume limit".split()),
        *(f"dlq {name}" for name in "list show redrive drop".split()),
        *(f"digest {name}" for name in "preview now".split()),
        "send-test", "notice",
    }  # fmt: skip


@pytest.mark.parametrize("words", groups(), ids=" ".join)
async def test_every_command_explains_itself_and_takes_json(run: Run, words: tuple[str, ...]) -> None:
    result = await run(*words, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert re.search(r"\n\n  [A-Z][^\n]{10,}", result.stdout)  # a sentence of its own


PAGE = (ROOT / "docs" / "client.md").read_text()
EXAMPLES = [line.partition("|")[0] for line in re.findall(r"^carillon .+", PAGE, re.MULTILINE)]


@pytest.mark.parametrize("line", EXAMPLES)
async def test_every_example_of_the_page_is_a_command(
    run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "order.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    anything = {**SUCCEEDED, **SCHEDULE, **EXPLANATION, "status": "succeeded", "host": "a", "matched": 1, "data": []}
    server.will(*[Answer(200, anything)] * 5)
    result = await run(*shlex.split(line, comments=True)[1:])
    assert (result.exit_code, [line for line in result.stderr.splitlines() if line != "none"]) == (0, [])
    assert server.seen


def test_the_page_has_an_example_of_each_group() -> None:
    assert {line.split()[1] for line in EXAMPLES} == {words[0] for words in groups()}


def test_a_length_is_told_in_its_two_largest_units() -> None:
    said = [length(timedelta(seconds=seconds)) for seconds in (0, 59, 60, 3661, 90_000, 86_400 * 30)]
    assert said == ["0s", "59s", "1m 0s", "1h 1m", "1d 1h", "30d 0h"]


def test_what_is_printed_keeps_letters_of_any_language() -> None:
    assert safe("Zo\u00eb \u2603 \u4f60\u597d") == "Zo\u00eb \u2603 \u4f60\u597d"


def test_a_terminal_is_known_by_its_stream() -> None:
    with redirect_stdout(io.StringIO()):
        assert not Output(as_json=False).is_live


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "carillon", *words]


def environ(**own: str) -> dict[str, str]:
    """Of a shell in which this checkout's client is installed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CARILLON_", "PYTHON"))}
    return plain | {"PYTHONPATH": str(ROOT / "client")} | own


async def test_the_command_runs_as_a_process_of_its_own(server: Server) -> None:
    server.will(Answer(200, SUCCEEDED))
    variables = environ(CARILLON_URL=server.url, CARILLON_API_KEY=KEY)
    done = await asyncio.to_thread(
        subprocess.run, command("task", "get", "019a-1", "--json"), env=variables, capture_output=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["id"] == "019a-1"
    assert server.only.headers["authorization"] == f"Bearer {KEY}"


async def test_a_reader_who_has_gone_away_is_no_traceback(server: Server) -> None:
    server.will(Answer(200, {"data": [SUCCEEDED] * 5, "next_cursor": None}))
    ours, theirs = os.pipe()
    os.close(ours)
    variables = environ(CARILLON_URL=server.url, CARILLON_KEY=KEY)
    words = command("task", "list", "--json")
    done = await asyncio.to_thread(
        subprocess.run, words, env=variables, stdout=theirs, stderr=subprocess.PIPE, timeout=30
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


async def test_ctrl_c_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("carillon.command.session._with_client", interrupted)
    result = await run("task", "watch", "x")
    assert (result.exit_code, result.output) == (130, "")


async def test_without_an_address_the_process_ends_with_2_in_one_line() -> None:
    done = await asyncio.to_thread(
        subprocess.run, command("task", "get", "x"), env=environ(), capture_output=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().splitlines() == ["error: where is Carillon? Set CARILLON_URL, or give --url"]


async def test_on_a_terminal_a_watch_shows_how_long_until_the_call(server: Server) -> None:
    def waiting() -> dict[str, Any]:
        return {**TASK, "next_attempt_at": (datetime.now(UTC) + timedelta(seconds=3)).isoformat()}

    server.will(Answer(200, waiting), Answer(200, SUCCEEDED))
    shown, code = await asyncio.to_thread(
        in_a_terminal, command("task", "watch", "x"), environ(CARILLON_URL=server.url, CARILLON_KEY=KEY, TERM="xterm")
    )
    assert re.search(r"scheduled, call in \ds", shown)
    assert "\x1b[32msucceeded" in shown  # green
    assert code == 0


def in_a_terminal(words: list[str], variables: dict[str, str]) -> tuple[str, int]:
    """What a person would see, and the exit code."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, env=variables, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            shown += read
        os.close(ours)
        return shown.decode(), process.wait(timeout=30)
