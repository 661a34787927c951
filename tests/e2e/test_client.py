"""The client and the command against a whole stack, and the client's page as it stands."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import carillon
import msgspec
import pytest

from tests.client.test_requests import ASKED
from tests.conftest import ROOT
from tests.e2e.conftest import Receiver, eventually

PAGE = (ROOT / "docs" / "client.md").read_text()


@pytest.fixture
async def client(stack: dict[str, str]) -> AsyncIterator[carillon.Client]:
    async with carillon.Client(stack["CARILLON_URL"], stack["CARILLON_API_KEY"]) as client:
        yield client


async def finished(client: carillon.Client, id: str) -> carillon.Task:
    async with asyncio.timeout(20):
        return [task async for task in client.tasks.watch(id, every_s=0.1)][-1]


async def test_the_first_ten_lines_of_the_page_run_as_they_stand(stack: dict[str, str], tmp_path: Path) -> None:
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    assert len([line for line in program.splitlines() if line]) == 8
    (tmp_path / "first.py").write_text(program)
    done = await run_process(stack, sys.executable, str(tmp_path / "first.py"))
    assert done.stderr == ""
    assert done.returncode == 0
    task, sentence = done.stdout.splitlines()
    assert re.fullmatch(r"[0-9a-f-]{36} scheduled \d{4}-\d\d-\d\d .*\+00:00", task)
    assert sentence.endswith(".")


# Answers of the client, and the schemas of the served document that they are read from.
SCHEMAS: dict[type[msgspec.Struct], tuple[str, ...]] = {
    carillon.Task: ("Task", "ListedTask"), carillon.Attempt: ("Attempt",), carillon.Explanation: ("Explanation",),
    carillon.Cause: ("Cause",), carillon.Move: ("Move",), carillon.BatchResult: ("BatchResult",),
    carillon.Bulk: ("Bulk",), carillon.Purged: ("Purge",), carillon.Schedule: ("Schedule", "ScheduleLine"),
    carillon.ScheduleRun: ("ScheduleRun",), carillon.Fire: ("Fire",), carillon.Preview: ("Preview",),
    carillon.Key: ("Key", "MadeKey"), carillon.SigningSecret: ("Secret",), carillon.PreviousSecret: ("PreviousSecret",),
    carillon.Target: ("Target",), carillon.Breaker: ("Breaker",), carillon.Parked: ("Parked", "ParkedMessage"),
    carillon.ParkedRedrive: ("ParkedRedrive",), carillon.FieldError: ("FieldError",),
    carillon.DigestPreview: ("DigestPreview",), carillon.DigestSent: ("DigestSent",),
}  # fmt: skip
NOT_OF_THE_CLIENT = {("POST", "/api/task/save")}
ASKED_ELSEWHERE = {
    ("POST", "/v1/tasks"), ("POST", "/v1/tasks/batch"), ("GET", "/v1/tasks/x"), ("GET", "/v1/tasks/x/attempts"),
    *(("GET", f"/v1/{name}") for name in ("tasks", "schedules", "keys", "targets", "parked")),
}  # fmt: skip


async def test_the_client_has_a_method_for_each_endpoint_and_a_field_for_each_answer(
    api: aiohttp.ClientSession,
) -> None:
    async with api.get("/openapi.json") as response:
        document = await response.json()
    operations = {(verb.upper(), path) for path, verbs in document["paths"].items() for verb in verbs}
    asked = {(method, path.partition("?")[0]) for _, method, path, _, _ in ASKED} | ASKED_ELSEWHERE
    missing = {each for each in operations - NOT_OF_THE_CLIENT if not any(_is_of(each, one) for one in asked)}
    assert not missing
    assert not {one for one in asked if not any(_is_of(each, one) for each in operations)}
    schemas = document["components"]["schemas"]
    for struct, names in SCHEMAS.items():
        told = {field for name in names for field in schemas[name]["properties"]}
        assert told == {field.encode_name for field in msgspec.structs.fields(struct)}, struct


def _is_of(operation: tuple[str, str], asked: tuple[str, str]) -> bool:
    path = re.sub(r"\{\w+\}", "[^/]+", operation[1])
    return operation[0] == asked[0] and re.fullmatch(path, asked[1]) is not None


async def test_a_task_is_created_called_and_looked_at(client: carillon.Client, receiver: Receiver) -> None:
    receiver.answers["client"] = [503, 200]
    due_at = datetime.now(UTC) + timedelta(seconds=1)
    task = await client.tasks.create(
        f"{receiver.url}/client", due_at=due_at, body={"a": 1}, labels={"from": "client"}, headers={"X-Mine": "yes"}
    )
    assert (task.status, task.body, task.labels) == ("scheduled", {"a": 1}, {"from": "client"})
    assert task.due_at is not None
    assert timedelta(0) <= task.due_at - due_at < timedelta(milliseconds=2)
    last = await finished(client, task.id)
    assert (last.status, last.attempt_count) == ("succeeded", 2)
    attempts = await client.tasks.attempts(task.id)
    assert sorted((each.number, each.status_code) for each in attempts) == [(1, 503), (2, 200)]
    assert all(each.response_body == "answer" for each in attempts)
    assert [call.body for call in receiver.calls["client"]] == [b'{"a":1}'] * 2


async def test_a_call_that_was_received_verifies(client: carillon.Client, receiver: Receiver) -> None:
    task = await client.tasks.create(f"{receiver.url}/verified", body_bytes=bytes(range(256)))
    await finished(client, task.id)
    [call] = receiver.calls["verified"]
    secret = (await client.signing_secret.get()).secret
    assert carillon.verify(call.headers, call.body, secret).id == task.id
    with pytest.raises(carillon.VerificationError):
        carillon.verify(call.headers, call.body + b" ", secret)


async def test_one_key_is_one_task_whoever_repeats(client: carillon.Client, receiver: Receiver) -> None:
    url = f"{receiver.url}/repeated"
    tasks = await asyncio.gather(*(client.tasks.create(url, idempotency_key="client-once") for _ in range(10)))
    assert len({task.id for task in tasks}) == 1
    await finished(client, tasks[0].id)
    with pytest.raises(carillon.Invalid) as raised:
        await client.tasks.create(url, body="another", idempotency_key="client-once")
    assert raised.value.code == "idempotency_key_reused"
    assert len(receiver.calls["repeated"]) == 1


async def test_what_is_wrong_is_named(client: carillon.Client, stack: dict[str, str]) -> None:
    with pytest.raises(carillon.Invalid) as raised:
        await client.tasks.create("http://10.0.0.1/", delay="soon", retry={"schedule_s": [-1]})
    assert {error.pointer for error in raised.value.errors} == {"/url", "/delay", "/retry/schedule_s/0"}
    assert raised.value.request_id
    async with carillon.Client(stack["CARILLON_URL"], "no-key-of-anybody") as stranger:
        with pytest.raises(carillon.Unauthorized):
            await stranger.tasks.get("x")


async def test_a_batch_tells_what_became_of_each(client: carillon.Client, receiver: Receiver) -> None:
    tasks = [{"url": f"{receiver.url}/batch"}, {"url": "nowhere"}, {"url": f"{receiver.url}/batch"}]
    first, second, third = await client.tasks.batch(tasks)
    assert [each.status for each in (first, second, third)] == [201, 422, 201]
    assert second.problem is not None
    assert second.problem.errors[0].pointer == "/url"
    for each in (first, third):
        assert each.id is not None
        assert (await finished(client, each.id)).status == "succeeded"


async def test_tasks_are_found_moved_run_and_cancelled(client: carillon.Client, receiver: Receiver) -> None:
    url, labels = f"{receiver.url}/listed", {"client": "listed"}
    made = [await client.tasks.create(url, delay="1h", labels=labels) for _ in range(3)]

    async def listed() -> list[str] | None:
        found = [task.id async for task in client.tasks.list(labels=labels, status=["scheduled"], page_size=2)]
        return found if len(found) == 3 else None

    ids: list[str] = await eventually("three tasks in the list", listed)
    assert ids == [task.id for task in reversed(made)]
    moved = await client.tasks.patch(made[0].id, delay=timedelta(hours=2))
    assert moved.due_at is not None
    assert moved.due_at > datetime.now(UTC) + timedelta(minutes=119)
    assert (await client.tasks.explain(made[0].id)).code == "waiting_for_time"
    await client.tasks.run(made[0].id)
    assert (await finished(client, made[0].id)).status == "succeeded"
    assert (await client.tasks.cancel(made[1].id)).status == "cancelled"
    assert (await finished(client, made[1].id)).status == "cancelled"  # now the history knows it too
    with pytest.raises(carillon.Conflict):
        await client.tasks.run(made[1].id)
    counted = await client.tasks.cancel_many({"labels": labels, "url_prefix": url}, dry_run=True)
    assert (counted.id, counted.matched) == (None, 1)
    bulk = await client.tasks.cancel_many({"labels": labels, "created_from": datetime.now(UTC) - timedelta(hours=1)})
    assert bulk.id is not None

    async def over() -> carillon.Bulk | None:
        assert bulk.id is not None
        now = await client.tasks.bulk(bulk.id)
        return now if now.finished_at else None

    finished_bulk: carillon.Bulk = await eventually("the bulk command", over)
    assert finished_bulk.done == 1
    assert (await finished(client, made[2].id)).status == "cancelled"


async def test_a_failed_task_is_redriven(client: carillon.Client, receiver: Receiver) -> None:
    receiver.answers["redriven"] = [410, 200]
    task = await client.tasks.create(f"{receiver.url}/redriven")
    assert (await finished(client, task.id)).status == "failed"
    assert not (await client.tasks.redrive(task.id)).is_final
    assert (await finished(client, task.id)).status == "succeeded"


async def test_a_schedule_is_put_looked_at_run_and_deleted(client: carillon.Client, receiver: Receiver) -> None:
    template: carillon.fields.Template = {"url": f"{receiver.url}/nightly", "body": {"night": 1}, "timeout_s": 5}
    put = await client.schedules.put("client-nightly", cron="30 2 * * *", timezone="Europe/Berlin", task=template)
    assert (put.status, put.cron, put.timezone) == ("active", "30 2 * * *", "Europe/Berlin")
    assert put.task is not None
    assert (put.task.url, put.task.body, put.task.timeout_s) == (template["url"], {"night": 1}, 5)
    assert (await client.schedules.pause("client-nightly")).status == "paused"
    assert (await client.schedules.resume("client-nightly")).next_at is not None
    assert "client-nightly" in [schedule.name async for schedule in client.schedules.list()]
    run = await client.schedules.run("client-nightly")
    assert (await finished(client, run.task_id)).status == "succeeded"
    assert [call.body for call in receiver.calls["nightly"]] == [b'{"night":1}']
    bare = await client.schedules.put("client-nightly", every="1h", task={"url": template["url"]})
    assert (bare.every, bare.cron, bare.task is not None and bare.task.content_type) == ("1h", None, None)
    await client.schedules.delete("client-nightly")
    with pytest.raises(carillon.NotFound):
        await client.schedules.get("client-nightly")


async def test_a_preview_marks_the_clock_changes(client: carillon.Client) -> None:
    start = datetime(2027, 3, 26, tzinfo=UTC)
    told = await client.schedules.preview(cron="30 2 * * *", timezone="Europe/Berlin", start_at=start, count=3)
    assert told.words
    assert [fire.dst for fire in told.fires] == [None, None, "gap"]
    assert told.fires[0].at == datetime(2027, 3, 26, 1, 30, tzinfo=UTC)
    every = await client.schedules.preview(every=timedelta(minutes=5), start_at=start, count=2)
    assert [fire.at - start for fire in every.fires] == [timedelta(0), timedelta(minutes=5)]


async def test_a_key_does_what_it_may_until_it_is_revoked(client: carillon.Client, stack: dict[str, str]) -> None:
    key = await client.keys.create("reader", scopes=["tasks:read"], expires_at=datetime.now(UTC) + timedelta(days=1))
    assert key.key is not None
    async with carillon.Client(stack["CARILLON_URL"], key.key) as reader:
        assert [task async for task in reader.tasks.list(page_size=1, labels={"of": "nobody"})] == []
        with pytest.raises(carillon.Forbidden):
            await reader.tasks.create("https://example.com/hook")
        rotated = await client.keys.rotate(key.id, overlap_s=60)
        assert rotated.key not in (None, key.key)
        assert {key.id, rotated.id} <= {each.id async for each in client.keys.list()}
        assert (await client.keys.revoke(key.id)).status == "revoked"

        async def is_refused() -> bool:
            try:
                await reader.tasks.get("x")
            except carillon.Unauthorized:
                return True
            except carillon.NotFound:
                return False
            return False

        _: bool = await eventually("the key is refused", is_refused)


async def test_a_target_is_limited_paused_and_resumed(client: carillon.Client) -> None:
    host = "client.example.com:8443"
    assert (await client.targets.limit(host, per_s=5, burst=10)).per_s == 5
    paused = await client.targets.pause(host)
    assert (paused.is_paused, paused.per_s, paused.burst) == (True, 5, 10)
    assert host in [target.host async for target in client.targets.list()]
    assert not (await client.targets.resume(host)).is_paused
    assert (await client.targets.limit(host, per_s=None)).per_s is None


async def test_of_no_dead_letters_there_are_none(client: carillon.Client) -> None:
    assert [parked async for parked in client.parked.list(origin="mailer.outbox")] == []
    for call in (client.parked.get("x/y"), client.parked.redrive("x"), client.parked.drop("x", reason="none")):
        with pytest.raises(carillon.NotFound):
            await call


async def test_send_test_prints_what_the_receiver_answers(stack: dict[str, str], receiver: Receiver) -> None:
    done = await run_process(stack, sys.executable, "-m", "carillon", "send-test", f"{receiver.url}/sent")
    assert (done.returncode, done.stderr) == (0, "")
    assert "succeeded" in done.stdout
    assert "HTTP 200" in done.stdout
    assert done.stdout.rstrip().endswith("answer")
    [call] = receiver.calls["sent"]
    assert json.loads(call.body)["carillon"] == "test"


async def test_a_notice_of_the_command_is_taken(stack: dict[str, str]) -> None:
    words = ("notice", "from the command", "--subject", "client", "--json")
    done = await run_process(stack, sys.executable, "-m", "carillon", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["id"]


async def run_process(stack: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    """As somebody who has sourced the stack's variables and installed this checkout's client."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CARILLON_")}
    own = {"CARILLON_URL": stack["CARILLON_URL"], "CARILLON_KEY": stack["CARILLON_API_KEY"]}
    environ = plain | own | {"PYTHONPATH": str(ROOT / "client")}
    return await asyncio.to_thread(
        subprocess.run, words, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
