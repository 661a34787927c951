"""Consumers meet a real broker: every item is handled, parked or comes again, whatever dies in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from libs.common import connection, intake
from libs.common.consumer import BatchConsumer, ItemConsumer
from libs.common.intake import Intake, Poison, decoder
from libs.common.publisher import Publisher
from libs.common.topology import (
    CREATE,
    DISPATCHER_DUE,
    DISPATCHER_RETRY_DUE,
    DUE,
    PARKING,
    RETRY_DUE,
    RETURN,
    SCHEDULER_RETURNS,
    SCHEDULER_TASKS,
)
from tests.integration.rig import (
    Handler,
    Proxy,
    consuming,
    held,
    in_batches,
    metric,
    one_by_one,
    publishing,
    put,
    ready,
    send_back,
    stale,
    take,
    until,
)

TASKS = SCHEDULER_TASKS
Kind = Callable[[str, Handler, Publisher], ItemConsumer[int] | BatchConsumer[int]]


@pytest.fixture
async def publisher(amqp_url: str) -> AsyncIterator[Publisher]:
    async with publishing(amqp_url) as made:
        yield made


@pytest.fixture(autouse=True)
def _nothing_held() -> None:
    """A consumer that a test before this one cancelled held what it held to the end."""
    intake.HELD.clear()


@pytest.fixture
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CRASH_PAUSE_S", 0.01)


@pytest.fixture
def short_hold(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(intake, "HOLD_MAX_S", 0.4)
    return 0.4


class Seen:
    """Decodes, and notes what every item came in."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.crashes: list[object] = []

    def __call__(self, raw: bytes, message: AbstractIncomingMessage) -> int:
        self.bodies.append(message.body)
        self.crashes.append(message.headers.get("carillon-crashes"))
        return decoder(int)(raw, message)


async def nothing_left(amqp: AbstractConnection, *queues: str) -> None:
    """Called when the consumer's connection is closed, so that what it had not acked would be back."""
    for queue in queues or (TASKS, PARKING):
        await put(amqp, queue, b'"last"')
        assert (await take(amqp, queue)).body == b'"last"'


async def all_settled(queue: str, stale_before: float) -> None:
    await until("every message settled", lambda: held(queue) == 0)
    assert stale(queue) == stale_before


# --- what cannot be read


@pytest.mark.parametrize("kind", [one_by_one, in_batches])
async def test_an_undecodable_item_is_parked_alone_and_its_neighbours_are_handled(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind
) -> None:
    handler, before = Handler(), stale(TASKS)
    await put(amqp, TASKS, b'[1, {"not": "an int"}, 2]')
    async with consuming(amqp_url, kind(TASKS, handler, publisher)):
        await handler.has_done(1, 2)
        parked = await take(amqp, PARKING)
        await all_settled(TASKS, before)
    assert parked.body == b'[{"not": "an int"}]'
    assert parked.headers["carillon-origin"] == TASKS
    assert str(parked.headers["carillon-cause"]).startswith("undecodable: ")
    assert sorted(handler.begun) == [1, 2]
    await nothing_left(amqp)


@pytest.mark.parametrize(
    "body",
    [b'{"a": 1}', b"[1, 2", b"\xff\xfe", b"", b"[" * 5000 + b"]" * 5000],
    ids=["an object", "cut off", "no text", "empty", "too deep"],
)
async def test_a_body_that_is_no_json_array_is_parked_whole(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, body: bytes
) -> None:
    handler, before = Handler(), stale(TASKS)
    await put(amqp, TASKS, body, b"[1]")
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher)):
        parked = await take(amqp, PARKING)
        await handler.has_done(1)
        await all_settled(TASKS, before)
    assert parked.body == b"[" + body + b"]"
    assert parked.headers["carillon-origin"] == TASKS
    assert str(parked.headers["carillon-cause"]).startswith("not a JSON array: ")
    await nothing_left(amqp)


@pytest.mark.parametrize("kind", [one_by_one, in_batches])
async def test_a_message_without_items_is_acked_and_holds_up_nobody(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind
) -> None:
    handler, before = Handler(), stale(TASKS)
    await put(amqp, TASKS, b"[]", b"[1]", b"[]")
    async with consuming(amqp_url, kind(TASKS, handler, publisher)):
        await handler.has_done(1)
        await all_settled(TASKS, before)
    await nothing_left(amqp)


# --- what kills


async def test_a_message_delivered_for_the_third_time_is_taken_apart_and_nothing_is_lost(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, seen = Handler(), Seen()
    await put(amqp, TASKS, b"[1,2,3]")
    await send_back(amqp, TASKS, times=2)
    consumer = ItemConsumer(Intake(TASKS, seen, publisher, prefetch=8), handler.item, asyncio.Semaphore(8))
    async with consuming(amqp_url, consumer):
        await handler.has_done(1, 2, 3)
        await until("every message settled", lambda: held(TASKS) == 0)
    assert sorted(seen.bodies) == [b"[1]", b"[2]", b"[3]"]
    await nothing_left(amqp)


async def test_a_message_delivered_for_the_second_time_is_handled_whole(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, seen = Handler(), Seen()
    await put(amqp, TASKS, b"[1,2,3]")
    await send_back(amqp, TASKS, times=1)
    consumer = ItemConsumer(Intake(TASKS, seen, publisher, prefetch=8), handler.item, asyncio.Semaphore(8))
    async with consuming(amqp_url, consumer):
        await handler.has_done(1, 2, 3)
    assert seen.bodies == [b"[1,2,3]"] * 3


async def test_what_is_taken_apart_in_the_bounded_queue_goes_on_in_the_unbounded_one(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    due, retry_due, slots = Handler(), Handler(), asyncio.Semaphore(10)
    await put(amqp, DISPATCHER_DUE, b"[1,2]")
    await send_back(amqp, DISPATCHER_DUE, times=2)
    consumers = (
        one_by_one(DISPATCHER_DUE, due, publisher, slots=slots),
        one_by_one(DISPATCHER_RETRY_DUE, retry_due, publisher, slots=slots),
    )
    async with consuming(amqp_url, *consumers):
        await retry_due.has_done(1, 2)
    assert due.begun == []


async def test_a_packed_message_with_no_way_back_is_handled_however_often_it_came(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, before = Handler(), stale(PARKING)
    await put(amqp, PARKING, b"[1,2]")
    await send_back(amqp, PARKING, times=2)
    async with consuming(amqp_url, one_by_one(PARKING, handler, publisher)):
        await handler.has_done(1, 2)
        await all_settled(PARKING, before)


@pytest.mark.usefixtures("short_pause")
async def test_an_item_that_crashes_its_handler_comes_again_alone_and_the_fifth_crash_parks_it(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, seen = Handler(raises={1: ValueError("boom")}), Seen()
    await put(amqp, TASKS, b"[1,2]")
    consumer = ItemConsumer(Intake(TASKS, seen, publisher, prefetch=8), handler.item, asyncio.Semaphore(1))
    async with consuming(amqp_url, consumer):
        parked = await take(amqp, PARKING)
        await until("every message settled", lambda: held(TASKS) == 0)
    assert handler.begun == [1, 2, 1, 1, 1, 1]
    assert seen.bodies == [b"[1,2]", b"[1,2]", b"[1]", b"[1]", b"[1]", b"[1]"]
    assert seen.crashes == [None, None, 1, 2, 3, 4]
    assert parked.body == b"[1]"
    assert parked.headers["carillon-cause"] == "crashed its handler 5 times: ValueError('boom')"
    await nothing_left(amqp)


@pytest.mark.usefixtures("short_pause")
@pytest.mark.parametrize("kind", [one_by_one, in_batches])
async def test_a_cancellation_that_nobody_asked_for_is_a_crash_like_any_other(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind
) -> None:
    """A library that ends a wait on a dead link raises a bare CancelledError inside the handler."""
    handler = Handler(raises={1: asyncio.CancelledError()})
    await put(amqp, TASKS, b"[1]")
    async with consuming(amqp_url, kind(TASKS, handler, publisher)) as running:
        await until("the second try", lambda: handler.begun == [1, 1])
        handler.raises.clear()
        await handler.has_done(1)
        assert not running.workers[0].done()


async def test_poison_is_parked_at_once(amqp_url: str, amqp: AbstractConnection, publisher: Publisher) -> None:
    handler, before = Handler(raises={2: Poison("never again")}), stale(TASKS)
    await put(amqp, TASKS, b"[1,2,3]")
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher)):
        parked = await take(amqp, PARKING)
        await handler.has_done(1, 3)
        await all_settled(TASKS, before)
    assert sorted(handler.begun) == [1, 2, 3]
    assert parked.body == b"[2]"
    assert parked.headers["carillon-cause"] == "never again"
    await nothing_left(amqp)


async def test_a_batch_with_a_poison_item_is_halved_until_it_stands_alone(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, before = Handler(raises={6: Poison("bad")}), stale(TASKS)
    await put(amqp, TASKS, b"[1,2,3,4,5,6,7,8]")
    async with consuming(amqp_url, in_batches(TASKS, handler, publisher)):
        parked = await take(amqp, PARKING)
        await handler.has_done(7, 8)
        await all_settled(TASKS, before)
    assert parked.body == b"[6]"
    assert handler.batches == [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4], [5, 6, 7, 8], [5, 6], [5], [6], [7, 8]]
    assert handler.done == [1, 2, 3, 4, 5, 7, 8]
    await nothing_left(amqp)


@pytest.mark.usefixtures("short_pause")
async def test_an_item_that_crashes_its_batch_is_parked_after_five_crashes_of_its_own(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler = Handler(raises={2: ValueError("boom")})
    await put(amqp, TASKS, b"[1,2]")
    async with consuming(amqp_url, in_batches(TASKS, handler, publisher)):
        parked = await take(amqp, PARKING)
    assert parked.body == b"[2]"
    assert handler.done == [1]
    assert handler.batches == [[1, 2], [1], [2], [2], [2], [2], [2]]


async def test_a_crash_with_no_way_back_comes_again_when_it_was_held_too_long(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, short_hold: float
) -> None:
    handler = Handler(raises={1: ValueError("once")})
    await put(amqp, PARKING, b"[1]")
    async with consuming(amqp_url, one_by_one(PARKING, handler, publisher)):
        await handler.has_begun(1)
        handler.raises.clear()
        await handler.has_done(1)
        await until("every message settled", lambda: held(PARKING) == 0)


# --- stopping


@pytest.mark.parametrize("kind", [one_by_one, in_batches])
async def test_a_handler_cancelled_at_shutdown_settles_nothing_and_its_message_comes_again(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, kind: Kind
) -> None:
    handler = Handler()
    handler.gate.clear()
    await put(amqp, TASKS, b"[1]")
    async with consuming(amqp_url, kind(TASKS, handler, publisher)):
        await handler.has_begun(1)
    again = await take(amqp, TASKS)
    assert again.body == b"[1]"
    assert again.redelivered
    assert handler.done == []
    await nothing_left(amqp)


async def test_stopping_finishes_what_has_begun_and_leaves_the_rest_to_another(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, before = Handler(), Handler(), stale(TASKS)
    consumer = one_by_one(TASKS, first, publisher, slots=asyncio.Semaphore(1))
    stop, has_stopped = consumer.intake.stop, asyncio.Event()

    async def stop_and_tell() -> None:
        await stop()
        has_stopped.set()

    monkeypatch.setattr(consumer.intake, "stop", stop_and_tell)
    first.gate.clear()
    await put(amqp, TASKS, b"[1]", b"[2]", b"[3,4]")
    async with consuming(amqp_url, consumer) as running:
        await first.has_begun(1)
        await until("all three to be taken", lambda: held(TASKS) == 3)
        running.stopping.set()
        await asyncio.wait_for(has_stopped.wait(), 10)
        await put(amqp, TASKS, b"[5]")
        assert await ready(amqp, TASKS) == 1, "a stopped consumer takes nothing new"
        assert not running.workers[0].done()
        first.gate.set()
        await running.ended()
        assert first.done == first.begun == [1]
    intake.HELD.clear()  # the first took what it had not begun to its end
    async with consuming(amqp_url, one_by_one(TASKS, second, publisher)):
        await second.has_done(2, 3, 4, 5)
        await until("every message settled", lambda: held(TASKS) == 0)
    assert sorted(second.done) == [2, 3, 4, 5]
    assert stale(TASKS) == before
    await nothing_left(amqp)


async def test_a_message_begun_in_part_comes_again_whole(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler = Handler()
    handler.gate.clear()
    await put(amqp, TASKS, b"[1,2,3]")
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher, slots=asyncio.Semaphore(1))) as running:
        await handler.has_begun(1)
        running.stopping.set()
        handler.gate.set()
        await running.ended()
    assert handler.done == [1]
    assert (await take(amqp, TASKS)).body == b"[1,2,3]"


async def test_a_batch_under_way_is_finished_before_the_stop(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, before = Handler(), stale(TASKS)
    handler.gate.clear()
    await put(amqp, TASKS, b"[1,2]")
    async with consuming(amqp_url, in_batches(TASKS, handler, publisher)) as running:
        await handler.has_begun(1, 2)
        running.stopping.set()
        await put(amqp, TASKS, b"[3]")
        handler.gate.set()
        await running.ended()
        assert handler.done == [1, 2]
        assert stale(TASKS) == before
    assert (await take(amqp, TASKS)).body == b"[3]"


async def test_a_stop_while_the_prefetch_is_being_widened_takes_nothing_new(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelling, go_on, cancel = asyncio.Event(), asyncio.Event(), aio_pika.Queue.cancel

    async def slow_cancel(queue: aio_pika.Queue, *args: object, **options: object) -> object:
        cancelling.set()
        await go_on.wait()
        return await cancel(queue, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(aio_pika.Queue, "cancel", slow_cancel)
    handler = Handler()
    await put(amqp, TASKS, *(b"[%d]" % number for number in range(8)))
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher)) as running:
        await asyncio.wait_for(cancelling.wait(), 10)  # eight are settled: it is being widened
        running.stopping.set()
        for _ in range(10):
            await asyncio.sleep(0)
        go_on.set()
        await running.ended()
        await put(amqp, TASKS, b"[99]")
        assert (await take(amqp, TASKS)).body == b"[99]"


# --- how much is taken


async def test_eight_slow_messages_after_a_start_hold_up_the_rest_for_a_moment_only(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "FIRST_S", 0.2)
    handler = Handler()
    handler.gate.clear()
    await put(amqp, TASKS, *(b"[%d]" % number for number in range(12)))
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher, slots=asyncio.Semaphore(100))) as running:
        await handler.has_begun(*range(12))
        running.stopping.set()
        handler.gate.set()
        await running.ended()


async def test_a_consumer_begins_with_eight_messages_and_takes_the_rest_when_they_are_settled(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler = Handler()
    handler.gate.clear()
    await put(amqp, TASKS, *(b"[%d]" % number for number in range(30)))
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher)):
        await handler.has_begun(*range(8))
        assert await ready(amqp, TASKS) == 22
        assert len(handler.begun) == 8
        handler.gate.set()
        await handler.has_done(*range(8))
        handler.gate.clear()
        await handler.has_done(*range(8))
        await put(amqp, TASKS, *(b"[%d]" % number for number in range(30, 60)))
        await until("more than eight in hand", lambda: len(handler.begun) - len(handler.done) > 20)
        handler.gate.set()
        await handler.has_done(*range(60))
    assert sorted(handler.done) == list(range(60))


async def test_acks_that_came_too_late_do_not_end_the_slow_start_of_the_next_connection(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    calls: list[asyncio.Event] = []

    async def handle(_item: int) -> None:
        calls.append(asyncio.Event())
        await calls[-1].wait()

    consumer = ItemConsumer(Intake(TASKS, decoder(int), publisher, prefetch=64), handle, asyncio.Semaphore(100))
    await put(amqp, TASKS, *(b"[%d]" % number for number in range(30)))
    before = stale(TASKS)
    async with Proxy(amqp_url) as proxy, consuming(proxy.url, consumer):
        await until("eight begun", lambda: len(calls) == 8)
        proxy.cut()
        await until("eight begun again", lambda: len(calls) == 16)
        for call in calls[:8]:
            call.set()
        await until("eight stale acks", lambda: stale(TASKS) == before + 8)
        await put(amqp, SCHEDULER_RETURNS, b"[]")  # the broker has had its chance to deliver
        assert await ready(amqp, TASKS) == 22
        assert len(calls) == 16


async def test_two_consumers_share_the_slots_and_neither_starves(amqp_url: str, publisher: Publisher) -> None:
    now, most, done = 0, 0, []

    async def handle(item: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        done.append(item)

    slots = asyncio.Semaphore(3)
    consumers = [
        ItemConsumer(Intake(queue, decoder(int), publisher, prefetch=16), handle, slots)
        for queue in (DISPATCHER_DUE, DISPATCHER_RETRY_DUE)
    ]
    await publisher.publish_many(DUE, [b"%d" % number for number in range(100)])
    await publisher.publish_many(RETRY_DUE, [b"%d" % number for number in range(100, 200)])
    async with consuming(amqp_url, *consumers):
        await until("all 200 done", lambda: len(done) >= 200)
    assert sorted(done) == list(range(200))
    assert most == 3
    first_of_each = [min(done.index(number) for number in numbers) for numbers in (range(100), range(100, 200))]
    assert max(first_of_each) < 20, "both queues got slots from the start"


async def test_gathering_batches_by_the_clock_loses_nothing(amqp_url: str, publisher: Publisher) -> None:
    handler, before = Handler(), stale(TASKS)
    async with consuming(amqp_url, in_batches(TASKS, handler, publisher, linger_s=0.001)):
        for first in range(0, 600, 3):
            await publisher.publish_many(CREATE, [b"%d" % number for number in range(first, first + 3)])
        await handler.has_done(*range(600))
        await all_settled(TASKS, before)
    assert handler.done == list(range(600))
    assert len(handler.batches) > 1


async def test_a_batch_grows_to_its_limit_in_whole_messages(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler = Handler()
    await put(amqp, TASKS, *(b"[%d,%d,%d]" % (number, number + 1, number + 2) for number in range(0, 18, 3)))
    consumer = BatchConsumer(
        Intake(TASKS, decoder(int), publisher, prefetch=64), handler.batch, items_max=6, linger_s=5
    )  # fmt: skip
    async with consuming(amqp_url, consumer):
        await handler.has_done(*range(18))
    assert [len(batch) for batch in handler.batches] == [6, 6, 6]


# --- a link that dies


async def test_a_delivery_held_too_long_closes_the_channel_once_and_consumption_resumes_when_all_is_settled(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, short_hold: float
) -> None:
    handler, lost = Handler(), metric("carillon_broker_lost_total", connection="hold")
    handler.gate.clear()
    await put(amqp, TASKS, b"[1]", b"[2]")
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher), name="hold") as running:
        await handler.has_begun(1, 2)
        await until("both to be back in the queue", lambda: is_ready(amqp, 2))
        await asyncio.wait_for(running.link.up(), 10)
        seen_up = time.monotonic()
        await until("another limit to pass", lambda: time.monotonic() > seen_up + 2 * short_hold)
        assert sorted(handler.begun) == [1, 2], "it consumed while it still held what it had"
        assert metric("carillon_broker_lost_total", connection="hold") == lost + 1
        handler.gate.set()
        await until("both again", lambda: sorted(handler.done) == [1, 1, 2, 2])
        await put(amqp, TASKS, b"[3]")
        await handler.has_done(3)
        assert metric("carillon_broker_lost_total", connection="hold") == lost + 1

        handler.gate.clear()
        await put(amqp, TASKS, b"[4]")
        await handler.has_begun(4)
        await until("the next one held too long", lambda: is_ready(amqp, 1))
        # The broker has it back a moment before the link's loss is counted.
        await until("its link lost", lambda: metric("carillon_broker_lost_total", connection="hold") == lost + 2)
        handler.gate.set()
        await until("it again", lambda: handler.done.count(4) == 2)
        await until("every message settled", lambda: held(TASKS) == 0)
    await nothing_left(amqp)


async def is_ready(amqp: AbstractConnection, messages: int) -> bool:
    return await ready(amqp, TASKS) == messages


async def test_what_waited_for_a_slot_when_the_link_died_is_handled_once(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, before = Handler(), stale(TASKS)
    handler.gate.clear()
    await put(amqp, TASKS, b"[1]", b"[2]", b"[3]")
    consumer = one_by_one(TASKS, handler, publisher, slots=asyncio.Semaphore(1))
    async with Proxy(amqp_url) as proxy, consuming(proxy.url, consumer) as running:
        await handler.has_begun(1)
        await until("all three to be taken", lambda: held(TASKS) == 3)
        proxy.cut()
        await until("the link to be down", lambda: is_down(running.link.ping))
        await asyncio.wait_for(running.link.up(), 10)
        handler.gate.set()
        await until("all done, the first twice", lambda: len(handler.done) >= 4)
        await until("every message settled", lambda: held(TASKS) == 0)
    assert sorted(handler.done) == [1, 1, 2, 3]
    assert stale(TASKS) == before + 1
    await nothing_left(amqp)


async def test_a_batch_that_had_not_begun_when_the_link_died_is_handled_once(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher
) -> None:
    handler, before = Handler(), stale(TASKS)
    handler.gate.clear()
    await put(amqp, TASKS, b"[1]")
    consumer = in_batches(TASKS, handler, publisher)
    async with Proxy(amqp_url) as proxy, consuming(proxy.url, consumer) as running:
        await handler.has_begun(1)
        await put(amqp, TASKS, b"[2]", b"[3]")
        await until("all three to be taken", lambda: held(TASKS) == 3)
        proxy.cut()
        await until("the link to be down", lambda: is_down(running.link.ping))
        await asyncio.wait_for(running.link.up(), 10)
        handler.gate.set()
        await until("all done, the first twice", lambda: len(handler.done) >= 4)
        await until("every message settled", lambda: held(TASKS) == 0)
    assert sorted(handler.done) == [1, 1, 2, 3]
    assert stale(TASKS) == before + 1
    await nothing_left(amqp)


async def test_what_arrives_while_a_link_is_being_left_is_not_begun(
    amqp_url: str, amqp: AbstractConnection, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel of a connection died: the others still get deliveries until the connection is closed."""
    close = connection._close
    late: list[bytes] = []

    async def close_late(leaving: AbstractConnection) -> None:
        if not late:
            late.append(b"[1]")
            await put(amqp, TASKS, b"[1]")
            await until("its delivery", lambda: is_ready(amqp, 0))
        await close(leaving)

    monkeypatch.setattr(connection, "_close", close_late)
    handler, before, sibling = Handler(), stale(TASKS), one_by_one(SCHEDULER_RETURNS, Handler(), publisher)
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher), sibling):
        channel = sibling.intake._channel
        assert channel is not None
        await channel.close()
        await handler.has_done(1)
        await until("every message settled", lambda: held(TASKS) == 0)
    assert handler.begun == [1]
    assert stale(TASKS) == before
    await nothing_left(amqp)


async def is_down(ping: Callable[[], Awaitable[None]]) -> bool:
    try:
        await ping()
    except ConnectionError:
        return True
    return False


@pytest.mark.parametrize("kind", [one_by_one, in_batches])
async def test_an_ack_that_a_half_open_link_cancels_is_stale_and_the_consumer_goes_on(
    amqp_url: str,
    amqp: AbstractConnection,
    publisher: Publisher,
    kind: Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ack = aio_pika.IncomingMessage.ack
    refused: list[aio_pika.IncomingMessage] = []

    async def cancelled_once(message: aio_pika.IncomingMessage, multiple: bool = False) -> None:
        if not refused:
            refused.append(message)
            raise asyncio.CancelledError
        await ack(message, multiple)

    monkeypatch.setattr(aio_pika.IncomingMessage, "ack", cancelled_once)
    handler, before = Handler(), stale(TASKS)
    await put(amqp, TASKS, b"[1]", b"[2]")
    async with consuming(amqp_url, kind(TASKS, handler, publisher)) as running:
        await handler.has_done(1, 2)
        await put(amqp, TASKS, b"[3]")
        await handler.has_done(3)
        await until("every message settled", lambda: held(TASKS) == 0)
        assert stale(TASKS) == before + 1
        assert not running.workers[0].done()
    assert (await take(amqp, TASKS)).redelivered


async def test_a_broker_killed_under_load_comes_back_and_everybody_goes_on(
    amqp_url: str, publisher: Publisher, kill_broker: Callable[[], None]
) -> None:
    handler, before = Handler(), stale(TASKS)
    handler.gate.clear()
    await publisher.publish(RETURN, b"7")
    await publisher.publish(CREATE, b"1")
    async with consuming(amqp_url, one_by_one(TASKS, handler, publisher)) as running:
        await handler.has_begun(1)
        await asyncio.to_thread(kill_broker)
        await until("the link to be down", lambda: is_down(running.link.ping))
        insisting = asyncio.create_task(publisher.insist(CREATE, b"2"))
        await until("the first to come again", lambda: handler.begun.count(1) == 2, within_s=60)
        handler.gate.set()
        await until("the late ack to be counted", lambda: stale(TASKS) == before + 1)
        await until("both handlers done", lambda: handler.done.count(1) == 2)
        await asyncio.wait_for(insisting, 30)
        await handler.has_done(2)
        await until("every message settled", lambda: held(TASKS) == 0)
    async with await aio_pika.connect(amqp_url) as again:
        assert (await take(again, SCHEDULER_RETURNS)).body == b"[7]"
