"""What the client does when an answer does not come, or says "not now"."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from uuid import UUID

import aiohttp
import pytest
from carillon import Client, Conflict, Invalid, NotReachable, RateLimited, Task, Unavailable, UnexpectedAnswer

from tests.client.conftest import KEY, TASK, Answer, Server, Time, problem

CREATED = Answer(201, TASK)
BATCH = {"results": [{"index": 0, "status": 201, "id": "a"}]}
NOT_CONFIRMED = problem(503, "not_confirmed", Retry_After="1")
MAY_PASS = [
    NOT_CONFIRMED,
    problem(503, "not_confirmed"),
    problem(429, "rate_limited", Retry_After="2"),
    problem(500, "internal_error"),
    problem(409, "in_progress"),
    Answer(502, b"<html>Bad Gateway</html>"),
    Answer(how="cut"),
    Answer(how="half"),
]


async def create(client: Client) -> Task:
    return await client.tasks.create("https://example.com/hook")


@pytest.mark.parametrize("first", MAY_PASS)
async def test_a_create_is_repeated_with_the_same_key_and_bytes_until_it_is_answered(
    client: Client, server: Server, time: Time, first: Answer
) -> None:
    server.will(first, first, CREATED)
    task = await client.tasks.create("https://example.com/hook", delay=timedelta(minutes=5), body={"a": 1})
    assert task.id == TASK["id"]
    assert len(server.seen) == 3
    assert len({(seen.headers["idempotency-key"], seen.body) for seen in server.seen}) == 1
    assert UUID(server.seen[0].headers["idempotency-key"])
    assert len(time.slept) == 2


async def test_a_batch_and_a_notice_are_repeated_in_the_same_way(client: Client, server: Server, time: Time) -> None:
    server.will(Answer(how="cut"), Answer(200, BATCH))
    [result] = await client.tasks.batch([{"url": "https://example.com/hook"}])
    assert (result.id, len({seen.headers["idempotency-key"] for seen in server.seen})) == ("a", 1)
    server.seen.clear()
    server.will(NOT_CONFIRMED, Answer(202, {"id": "n"}))
    assert (await client.notify("disk almost full")).id == "n"
    assert len({seen.headers["idempotency-key"] for seen in server.seen}) == 1


async def test_a_schedule_is_run_once_however_often_it_is_asked(client: Client, server: Server, time: Time) -> None:
    server.will(Answer(how="cut"), NOT_CONFIRMED, Answer(201, {"task_id": "t"}))
    assert (await client.schedules.run("nightly")).task_id == "t"
    assert len({seen.headers["idempotency-key"] for seen in server.seen}) == 1


def item(index: int, status: int) -> dict[str, object]:
    problem = {"status": status, "code": "not_confirmed", "detail": "Repeat it."}
    return {"index": index, "status": status, **({"id": f"{index}"} if status == 201 else {"problem": problem})}


async def test_a_batch_is_repeated_while_some_of_it_is_not_confirmed(
    client: Client, server: Server, time: Time
) -> None:
    server.will(Answer(200, {"results": [item(0, 201), item(1, 503), item(2, 422)]}))
    server.will(NOT_CONFIRMED, Answer(200, {"results": [item(0, 201), item(1, 201), item(2, 422)]}))
    results = await client.tasks.batch([{"url": "https://example.com/hook"}] * 3)
    assert [result.status for result in results] == [201, 201, 422]
    assert len({(seen.headers["idempotency-key"], seen.body) for seen in server.seen}) == 1
    assert len(time.slept) == 2


async def test_a_batch_that_stays_half_confirmed_tells_what_is_known_of_each(server: Server, time: Time) -> None:
    half = Answer(200, {"results": [item(0, 201), item(1, 503)]})
    started = time.now
    for then in (half, NOT_CONFIRMED):
        server.will(half, *[then] * 30)
        async with Client(server.url, KEY, timeout_s=20) as client:
            results = await client.tasks.batch([{"url": "https://example.com/hook"}] * 2)
        assert [result.status for result in results] == [201, 503]
        assert results[1].problem is not None
        server.answers.clear()
    assert 30 < time.now - started < 40


async def test_two_creates_have_two_keys_and_one_may_be_given(client: Client, server: Server) -> None:
    server.will(CREATED, CREATED, CREATED)
    await create(client)
    await create(client)
    await client.tasks.create("https://example.com/hook", idempotency_key="order-42")
    first, second, third = (seen.headers["idempotency-key"] for seen in server.seen)
    assert first != second
    assert third == "order-42"


async def test_a_pause_is_as_long_as_the_server_asks(client: Client, server: Server, time: Time) -> None:
    server.will(problem(429, "rate_limited", Retry_After="7"), NOT_CONFIRMED, CREATED)
    await create(client)
    assert time.slept == [7.0, 1.0]


async def test_retry_after_may_be_a_date(client: Client, server: Server, time: Time) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    server.will(problem(503, "not_confirmed", Retry_After=at), CREATED)
    await create(client)
    assert 25 <= time.slept[0] <= 30


@pytest.mark.parametrize("said", ["soon", "-1", "1.5", "", "Mon, 99 Foo 2026"])
async def test_a_retry_after_that_is_none_is_passed_over(client: Client, server: Server, time: Time, said: str) -> None:
    server.will(problem(503, "not_confirmed", Retry_After=said), CREATED)
    await create(client)
    assert 0.1 <= time.slept[0] <= 0.2


async def test_without_one_the_pauses_grow_to_a_bound(server: Server, time: Time) -> None:
    server.will(*[problem(503, "not_confirmed")] * 9, CREATED)
    async with Client(server.url, KEY, timeout_s=600) as client:
        await create(client)
    for slept, full in zip(time.slept, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8, 8, 8], strict=True):
        assert full / 2 <= slept <= full
    assert len({slept / full for slept, full in zip(time.slept, [0.2, 0.4, 0.8], strict=False)}) == 3  # clients spread


async def test_repeats_end_when_the_time_is_over_with_the_last_reason(server: Server, time: Time) -> None:
    server.will(*[problem(503, "not_confirmed", "The broker does not confirm.")] * 100)
    started = time.now
    async with Client(server.url, KEY, timeout_s=20) as client:
        with pytest.raises(Unavailable) as raised:
            await create(client)
    assert 12 <= time.now - started < 20
    assert (raised.value.code, raised.value.request_id) == ("not_confirmed", "req-1")


async def test_a_pause_longer_than_the_time_left_is_not_begun(client: Client, server: Server, time: Time) -> None:
    server.will(problem(429, "rate_limited", Retry_After="61"))
    with pytest.raises(RateLimited) as raised:
        await create(client)
    assert (raised.value.retry_after_s, time.slept, len(server.seen)) == (61, [], 1)


async def test_an_answer_that_does_not_come_is_given_up_and_the_request_repeated(server: Server) -> None:
    server.will(Answer(how="silent"), CREATED)
    async with Client(server.url, KEY, answer_timeout_s=0.2) as client:
        assert (await create(client)).id == TASK["id"]
    assert len({seen.headers["idempotency-key"] for seen in server.seen}) == 1


async def test_the_time_bounds_a_server_that_stays_silent(server: Server) -> None:
    server.will(*[Answer(how="silent")] * 9)
    async with Client(server.url, KEY, timeout_s=0.5, answer_timeout_s=30) as client:
        async with asyncio.timeout(5):
            with pytest.raises(NotReachable, match="within") as raised:
                await create(client)
    assert raised.value.is_maybe_taken


async def test_a_server_that_is_not_there_yet_is_waited_for(
    client: Client, server: Server, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = aiohttp.ClientSession.request, iter([True, True])

    def refused_twice(session: aiohttp.ClientSession, method: str, url: object, **options: object) -> object:
        return real(session, method, "http://127.0.0.1:1/" if next(refusals, False) else url, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(aiohttp.ClientSession, "request", refused_twice)
    server.will(Answer(201, {"id": "k1", "key": "secret"}))
    assert (await client.keys.create("shop", scopes=["admin"])).key == "secret"  # nothing was sent, so it is safe
    assert (len(time.slept), len(server.seen)) == (2, 1)


async def test_nobody_there_is_said_with_the_address(time: Time) -> None:
    async with Client("http://127.0.0.1:1/base/", KEY, timeout_s=3) as client:
        with pytest.raises(NotReachable, match=r"no connection to http://127\.0\.0\.1:1/base:") as raised:
            await client.tasks.get("x")
    assert not raised.value.is_maybe_taken
    assert len(time.slept) >= 2


async def test_a_connection_that_nobody_takes_is_given_up_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("carillon.transport.CONNECT_S", 0.2)
    monkeypatch.setattr("carillon.transport.PAUSE_FIRST_S", 100.0)  # no second try has time
    with socket.socket() as full, ExitStack() as others:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # what finds no place in its queue is not answered at all
            one = others.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        async with Client(f"http://127.0.0.1:{full.getsockname()[1]}", KEY, timeout_s=30) as client:
            with pytest.raises(NotReachable, match=r"no connection to .* in 0\.2 s") as raised:
                await create(client)
    assert not raised.value.is_maybe_taken


Call = Callable[[Client], Awaitable[object]]
ONCE_ONLY: list[Call] = [
    lambda client: client.tasks.run("x"),
    lambda client: client.tasks.redrive("x"),
    lambda client: client.tasks.redrive_many({"status": "failed"}),
    lambda client: client.keys.create("x", scopes=["admin"]),
    lambda client: client.keys.rotate("x"),
    lambda client: client.signing_secret.rotate(),
    lambda client: client.parked.redrive("x"),
]


@pytest.mark.parametrize("call", ONCE_ONLY)
@pytest.mark.parametrize(("first", "raised"), [(Answer(how="cut"), NotReachable), (NOT_CONFIRMED, Unavailable)])
async def test_what_may_have_happened_and_would_happen_twice_is_not_repeated(
    client: Client, server: Server, time: Time, call: Call, first: Answer, raised: type[Exception]
) -> None:
    server.will(first, Answer(200, {**TASK, "task_id": "t", "secret": "s", "matched": 1}))
    with pytest.raises(raised):
        await call(client)
    assert (len(server.seen), time.slept) == (1, [])


async def test_what_was_refused_for_its_rate_did_not_happen_and_is_repeated(
    client: Client, server: Server, time: Time
) -> None:
    server.will(problem(429, "rate_limited", Retry_After="3"), Answer(200, TASK))
    await client.tasks.run("x")
    assert time.slept == [3.0]


REPEATABLE: list[Call] = [
    lambda client: client.tasks.get("x"),
    lambda client: client.tasks.cancel("x"),
    lambda client: client.tasks.patch("x", delay=5),
    lambda client: client.tasks.cancel_many({"status": "scheduled"}),
    lambda client: client.tasks.redrive_many({"status": "failed"}, dry_run=True),
    lambda client: client.schedules.put("x", every="5m"),
    lambda client: client.schedules.pause("x"),
    lambda client: client.targets.pause("x"),
    lambda client: client.parked.drop("x", reason="old"),
]


@pytest.mark.parametrize("call", REPEATABLE)
@pytest.mark.parametrize("first", [Answer(how="cut"), NOT_CONFIRMED])
async def test_what_changes_nothing_the_second_time_is_repeated(
    client: Client, server: Server, time: Time, call: Call, first: Answer
) -> None:
    server.will(first, Answer(200, {**TASK, "name": "x", "host": "x", "matched": 1}))
    await call(client)
    assert len(server.seen) == 2
    assert "idempotency-key" not in server.seen[0].headers


async def test_a_conflict_is_an_answer_where_no_key_names_the_request(client: Client, server: Server) -> None:
    server.will(problem(409, "final"))
    with pytest.raises(Conflict):
        await client.tasks.cancel("x")
    assert len(server.seen) == 1


async def test_a_mistake_is_not_repeated(client: Client, server: Server, time: Time) -> None:
    server.will(problem(422, "invalid_request"))
    with pytest.raises(Invalid):
        await create(client)
    assert (len(server.seen), time.slept) == (1, [])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Welcome to nginx</html>"),
        Answer(200, b""),
        Answer(200, b"\xff"),
        Answer(200, b'{"id":"x","status":"due","body":' + b"[" * 100_000),
        Answer(200, ["no", "task"]),
        Answer(200, {"id": "x"}),
        Answer(302, headers={"Location": "https://login.example.com/"}),
    ],
)
async def test_an_answer_that_is_not_carillons_is_called_so_and_not_repeated(
    client: Client, server: Server, answer: Answer
) -> None:
    server.will(answer)
    with pytest.raises(UnexpectedAnswer, match=server.url):
        await create(client)
    assert len(server.seen) == 1


async def test_a_redirect_does_not_carry_the_key_elsewhere(client: Client, server: Server) -> None:
    server.will(Answer(307, headers={"Location": f"{server.url}/elsewhere"}), Answer(200, TASK))
    with pytest.raises(UnexpectedAnswer, match=r"307 and points to .*/elsewhere"):
        await client.tasks.get("x")
    assert [seen.path for seen in server.seen] == ["/v1/tasks/x"]


async def test_a_cancelled_call_is_not_repeated(client: Client, server: Server) -> None:
    server.will(Answer(how="silent"), CREATED)
    asking = asyncio.create_task(create(client))
    await asyncio.wait_for(server.asked.wait(), 5)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(server.seen) == 1
