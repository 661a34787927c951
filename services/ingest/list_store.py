"""The Redis list that ingest takes entries from, and where they stand until the broker has confirmed their tasks.

    <key>                    list    what others push
    <key>:taken:<owner>      hash    task id -> entry: taken by <owner>, not yet confirmed
    <key>:owner:<owner>      string  there while <owner> is alive (expires)
    <key>:owners             set     whoever may have a hash
    <key>:rejected           list    the newest entries that became no task, as JSON with the reasons

An entry gets its id in the step that takes it, so whoever publishes it, and however often, publishes one task.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from libs.common.ids import new_id
from libs.common.lifecycle import Fatal
from libs.common.redis import RedisAway, translating

LEASE_S = 10.0
"""So long without a beat, and an owner's entries are another's."""
WAIT_S = 1
"""Below the client's own time limit for an answer; whole, because redis-py wants it so."""
TAKEN_BYTES_MAX = 4 * 1024 * 1024
"""Of the entries taken in one step; one that is larger comes alone."""
REJECTED_MAX = 10_000
"""Entries in the rejected list; the oldest make room."""

# allow-oom: what they move takes no more memory than before, and a full Redis is emptied by nobody else.
# Whatever is written first can be refused with nothing done; after it nothing can.
_TAKE = """#!lua flags=allow-oom
redis.call('SADD', KEYS[4], ARGV[1])
redis.call('SET', KEYS[3], '', 'PX', ARGV[2])
local entries, bytes = {}, 0
for i = 1, #ARGV - 3 do
    local entry = redis.call('LINDEX', KEYS[1], i - 1)
    if not entry then break end
    bytes = bytes + #entry
    if i > 1 and bytes > tonumber(ARGV[3]) then break end
    redis.call('HSET', KEYS[2], ARGV[i + 3], entry)
    entries[i] = entry
end
redis.call('LTRIM', KEYS[1], #entries, -1)
return entries
"""
# KEYS: its owner, its hash, our hash, our owner, owners. An owner that wakes up later finds its hash empty.
_ADOPT = """#!lua flags=allow-oom
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SADD', KEYS[5], ARGV[2])
redis.call('SET', KEYS[4], '', 'PX', ARGV[3])
local held = redis.call('HGETALL', KEYS[2])
for i = 1, #held, 2 do
    redis.call('HSET', KEYS[3], held[i], held[i + 1])
end
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[5], ARGV[1])
return #held / 2
"""
# Only what is still ours: whoever has adopted it rejects it himself.
_REJECT = """#!lua flags=allow-oom
local rejected = 0
for i = 2, #ARGV, 2 do
    if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
        redis.call('RPUSH', KEYS[2], ARGV[i + 1])
        redis.call('HDEL', KEYS[1], ARGV[i])
        rejected = rejected + 1
    end
end
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[1]), -1)
return rejected
"""
_LEAVE = """#!lua flags=allow-oom
redis.call('DEL', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[3], ARGV[1]) end
"""


class Taken(NamedTuple):
    id: UUID
    entry: bytes


class ListStore:
    """One owner's view of the list `key`. Raises `RedisAway` for whatever Redis does not do."""

    def __init__(self, redis: Redis, key: str, replica: str, *, lease_s: float = LEASE_S) -> None:
        self._redis = redis
        self._key = key
        # Another name at each start, so that a replica is never taken for the one that died before it.
        self._owner = f"{replica}:{new_id()}"
        self._lease_ms = int(lease_s * 1000)
        self._in_hand: set[UUID] = set()
        self._take = redis.register_script(_TAKE)
        self._adopt = redis.register_script(_ADOPT)
        self._reject = redis.register_script(_REJECT)
        self._leave = redis.register_script(_LEAVE)

    @asynccontextmanager
    async def taking(self, at_most: int) -> AsyncIterator[list[Taken]]:
        """Entries of the list under new ids, at once, in their order; they count as in hand while the block runs."""
        ids = [new_id() for _ in range(at_most)]
        self._in_hand.update(ids)  # before the answer: a lost one leaves strays, and only then
        try:
            arguments: list[str | int] = [self._owner, self._lease_ms, TAKEN_BYTES_MAX, *map(str, ids)]
            with _answering():
                entries: list[bytes] = await self._take([self._key, *self._own(), self._owners], arguments)
            self._in_hand.difference_update(ids[len(entries) :])
            yield [Taken(id_, entry) for id_, entry in zip(ids, entries, strict=False)]
        finally:
            self._in_hand.difference_update(ids)

    async def wait(self) -> None:
        """Until the list holds something, or for `WAIT_S`. Moves the first entry to where it is: nothing changes."""
        with _answering():
            await self._redis.blmove(self._key, self._key, WAIT_S, "LEFT", "LEFT")

    @asynccontextmanager
    async def strays(self) -> AsyncIterator[list[Taken]]:
        """What stands under our name and nobody has in hand: adopted, or taken by a step whose answer was lost."""
        before, own_hash = set(self._in_hand), self._own()[0]
        with _answering():
            held = [UUID(_text(id_)) for id_ in await self._redis.hkeys(own_hash)]
            # In hand a moment ago: it may have been confirmed since.
            ids = sorted(id_ for id_ in held if id_ not in before and id_ not in self._in_hand)
            entries = await self._redis.hmget(own_hash, [str(id_) for id_ in ids]) if ids else []
        self._in_hand.update(ids)
        try:
            yield [Taken(id_, entry) for id_, entry in zip(ids, entries, strict=True) if isinstance(entry, bytes)]
        finally:
            self._in_hand.difference_update(ids)

    async def adopt(self) -> int:
        """Put what dead owners held under our name; gives how many entries that were."""
        with _answering():
            owners = {_text(owner) for owner in await self._redis.smembers(self._owners)}
        adopted = 0
        for owner in owners - {self._owner}:
            its_hash, its_mark = self._of(owner)
            keys = [its_mark, its_hash, *self._own(), self._owners]
            with _answering():
                adopted += await self._adopt(keys, [owner, self._owner, self._lease_ms])
        return adopted

    async def beat(self) -> int:
        """Stay alive for another lease; gives how many entries wait in the list."""
        with _answering():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(self._own()[1], b"", px=self._lease_ms)
                pipe.llen(self._key)
                _set, waiting = await pipe.execute()
        return int(waiting)

    async def confirmed(self, ids: Sequence[UUID]) -> None:
        """The broker has their tasks: forget them."""
        with _answering():
            await self._redis.hdel(self._own()[0], *map(str, ids))

    async def reject(self, records: Sequence[tuple[UUID, bytes]]) -> int:
        """Move to the rejected list, under what is written of them; gives how many were still ours."""
        arguments = [part for id_, record in records for part in (str(id_), record)]
        with _answering():
            rejected: int = await self._reject([self._own()[0], f"{self._key}:rejected"], [REJECTED_MAX, *arguments])
        return rejected

    async def leave(self) -> None:
        """Be dead now rather than a lease later: what is still ours is the next one's at once."""
        with _answering():
            await self._leave([*self._own(), self._owners], [self._owner])

    @property
    def _owners(self) -> str:
        return f"{self._key}:owners"

    def _own(self) -> tuple[str, str]:
        return self._of(self._owner)

    def _of(self, owner: str) -> tuple[str, str]:
        return f"{self._key}:taken:{owner}", f"{self._key}:owner:{owner}"


def _text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer


@contextmanager
def _answering() -> Iterator[None]:
    """A no (WRONGTYPE, MISCONF, a changed password) counts as away: the list waits for who mends it."""
    try:
        with translating():
            yield
    except (RedisError, Fatal) as error:
        raise RedisAway(f"Redis: {type(error).__name__}: {error}") from error
