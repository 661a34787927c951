"""Redis's side of the list door: what a take, an adoption and a rejection leave behind, whatever comes in between."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from libs.common.redis import RedisAway, redis_client
from services.ingest import list_store
from services.ingest.list_store import ListStore, Taken
from tests.integration.rig import until

KEY = "calls"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = redis_client(redis_url)
    yield client
    await client.aclose()


def store(redis: Redis, replica: str = "one", *, lease_s: float = 60) -> ListStore:
    return ListStore(redis, KEY, replica, lease_s=lease_s)


async def push(redis: Redis, *entries: str) -> None:
    await redis.rpush(KEY, *entries)


async def take(of: ListStore, at_most: int = 10) -> list[Taken]:
    """Taken, and no longer in hand: as a process that died holds them."""
    async with of.taking(at_most) as taken:
        return list(taken)


async def strays(of: ListStore) -> list[Taken]:
    async with of.strays() as found:
        return list(found)


def entries(taken: Sequence[Taken]) -> list[bytes]:
    return [entry for _id, entry in taken]


async def test_entries_are_taken_in_their_order_each_under_an_id_of_its_own(redis: Redis) -> None:
    await push(redis, "a", "b", "c")
    ours = store(redis)
    taken = await take(ours, 2)
    assert entries(taken) == [b"a", b"b"]
    assert len({id_ for id_, _entry in taken}) == 2
    assert await redis.lrange(KEY, 0, -1) == [b"c"]
    assert await strays(ours) == taken  # they stand in Redis under these ids
    assert await take(ours) != []
    assert await take(ours) == []


async def test_what_is_in_hand_is_no_stray_and_what_is_confirmed_is_gone(redis: Redis) -> None:
    await push(redis, "a", "b")
    ours = store(redis)
    async with ours.taking(5) as taken:
        assert await strays(ours) == []
        await ours.confirmed([taken[0].id])
    assert entries(await strays(ours)) == [b"b"]


async def test_a_step_takes_no_more_bytes_than_it_may_but_one_entry_always(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_store, "TAKEN_BYTES_MAX", 10)
    await push(redis, "x" * 50, "12345", "12345", "1")
    ours = store(redis)
    assert [len(entry) for entry in entries(await take(ours))] == [50]
    assert entries(await take(ours)) == [b"12345", b"12345"]
    assert entries(await take(ours)) == [b"1"]


async def test_bytes_that_are_no_text_come_through_unchanged(redis: Redis) -> None:
    raw = bytes(range(256))
    await redis.rpush(KEY, raw)
    ours, theirs = store(redis, lease_s=0.01), store(redis, "two")
    assert entries(await take(ours)) == [raw]
    await until("the lease to end", theirs.adopt)
    assert entries(await strays(theirs)) == [raw]


async def test_a_wait_ends_with_the_first_entry_and_leaves_the_list_as_it_is(redis: Redis) -> None:
    waiters = [asyncio.create_task(store(redis).wait()) for _ in range(3)]
    await until("three to wait", lambda: _blocked(redis, 3))
    await push(redis, "a", "b")
    await asyncio.wait_for(asyncio.gather(*waiters), 0.5)
    assert await redis.lrange(KEY, 0, -1) == [b"a", b"b"]


async def test_what_a_dead_owner_held_is_adopted_once_under_the_same_ids(redis: Redis) -> None:
    await push(redis, "a", "b")
    dead, one, two = store(redis, "dead", lease_s=0.01), store(redis), store(redis, "two")
    taken = await take(dead)
    await until("the lease to end", lambda: _is_dead(redis))
    assert sorted(await asyncio.gather(one.adopt(), two.adopt())) == [0, 2]
    assert await strays(one) + await strays(two) == taken
    assert await one.adopt() + await two.adopt() == 0


async def test_the_living_are_left_alone(redis: Redis) -> None:
    await push(redis, "a")
    living, other = store(redis), store(redis, "other")
    await take(living)
    assert await other.adopt() == 0
    assert entries(await strays(living)) == [b"a"]


async def test_a_beat_keeps_an_owner_alive_and_tells_how_many_entries_wait(redis: Redis) -> None:
    await push(redis, "a", "b", "c")
    living, other = store(redis, lease_s=0.2), store(redis, "other")
    await take(living, 1)
    for _ in range(10):
        assert await living.beat() == 2
        assert await other.adopt() == 0
        await asyncio.sleep(0.05)
    await until("the lease to end without beats", other.adopt)


async def test_a_frozen_owner_that_wakes_up_after_its_entries_were_adopted_does_no_harm(redis: Redis) -> None:
    await push(redis, "a", "b")
    frozen, heir = store(redis, "frozen", lease_s=0.01), store(redis, "heir")
    async with frozen.taking(5) as taken:
        await until("the lease to end", heir.adopt)
        # It wakes up, goes on with what it has in hand, and takes what has come meanwhile.
        await frozen.confirmed([taken[0].id])
        assert await frozen.reject([(taken[1].id, b"{}")]) == 0
    assert await strays(frozen) == []
    assert await strays(heir) == taken
    assert await redis.llen(f"{KEY}:rejected") == 0
    await push(redis, "c")
    again = await take(frozen)
    await until("the lease to end again", heir.adopt)
    assert await strays(heir) == taken + again


async def test_who_leaves_is_adopted_at_once_and_forgotten_when_nothing_is_left(redis: Redis) -> None:
    await push(redis, "a")
    leaving, heir = store(redis), store(redis, "heir")
    [(id_, _entry)] = await take(leaving)
    await leaving.leave()
    assert await heir.adopt() == 1
    await heir.confirmed([id_])
    await heir.leave()
    assert await redis.keys("*") == []


async def test_a_rejected_entry_moves_with_what_is_written_of_it(redis: Redis) -> None:
    await push(redis, "a", "b")
    ours = store(redis)
    first, second = await take(ours)
    assert await ours.reject([(first.id, b"why a")]) == 1
    assert await ours.reject([(first.id, b"why a")]) == 0  # an answer that was lost, asked again
    assert await redis.lrange(f"{KEY}:rejected", 0, -1) == [b"why a"]
    assert await strays(ours) == [second]


async def test_the_rejected_list_keeps_the_newest(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_store, "REJECTED_MAX", 2)
    await push(redis, "a", "b", "c")
    ours = store(redis)
    await ours.reject([(id_, entry) for id_, entry in await take(ours)])
    assert await redis.lrange(f"{KEY}:rejected", 0, -1) == [b"b", b"c"]


async def test_a_full_redis_is_emptied_all_the_same(redis: Redis) -> None:
    await push(redis, "a", "b")
    ours, heir = store(redis, lease_s=0.01), store(redis, "heir")
    await redis.config_set("maxmemory", "1")
    try:
        taken = await take(ours)
        assert entries(taken) == [b"a", b"b"]
        await until("the lease to end", heir.adopt)
        assert await heir.reject([(taken[0].id, b"why")]) == 1
        await heir.confirmed([taken[1].id])
        await heir.leave()
    finally:
        await redis.config_set("maxmemory", "0")
    assert await redis.keys(f"{KEY}:taken:*") == []


async def test_nothing_is_lost_when_redis_refuses_to_write(redis: Redis) -> None:
    """Each script writes first where the entry shall stand, and only then takes it away."""
    await push(redis, "a")
    ours = store(redis)
    await redis.set(ours._own()[0], "not a hash")
    with pytest.raises(RedisAway, match="WRONGTYPE"):
        await take(ours)
    assert await redis.lrange(KEY, 0, -1) == [b"a"]
    await redis.delete(ours._own()[0])
    [taken] = await take(ours)
    await redis.set(f"{KEY}:rejected", "not a list")
    with pytest.raises(RedisAway, match="WRONGTYPE"):
        await ours.reject([(taken.id, b"why")])
    assert await strays(ours) == [taken]


async def test_a_key_that_is_no_list_counts_as_away(redis: Redis) -> None:
    await redis.set(KEY, "text")
    for asking in (take(store(redis)), store(redis).wait()):
        with pytest.raises(RedisAway, match="WRONGTYPE"):
            await asking


async def test_a_take_whose_answer_is_lost_leaves_strays(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    await push(redis, "a", "b")
    ours = store(redis)
    ask = ours._take

    async def lost(*arguments: object) -> list[bytes]:
        await ask(*arguments)  # type: ignore[arg-type]
        raise ConnectionResetError

    monkeypatch.setattr(ours, "_take", lost)
    with pytest.raises(RedisAway):
        await take(ours)
    assert await redis.llen(KEY) == 0
    assert entries(await strays(ours)) == [b"a", b"b"]


async def _blocked(redis: Redis, clients: int) -> bool:
    return int((await redis.info("clients"))["blocked_clients"]) == clients


async def _is_dead(redis: Redis) -> bool:
    return not await redis.keys(f"{KEY}:owner:*")
