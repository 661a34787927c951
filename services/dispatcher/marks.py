"""What the replicas tell each other about an attempt, in Redis: claimed, its verdict, done.

    carillon:dispatcher:attempt:<task>:<generation>:<attempt>  =  c<replica>   a call is in flight (short, renewed)
                                                                  v<verdict>   answered, the outcome not yet published
                                                                  d            settled; another may follow
                                                                  e            settled; its task has ended
    carillon:dispatcher:success:<task>:<generation>            =  d            no attempt of it needs to be made
    carillon:dispatcher:cancel:<task>:<generation>             =  x            no attempt of it may be made

Only for efficiency and for fewer duplicates: Redis away means every claim is granted, at least once. A claim is as
short as a death should cost, so one beat renews those of all calls that go on for longer; a process that is frozen for
as long as a claim loses it, and the attempt may be called a second time.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec
import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from libs.common.coalescing import Coalescer
from libs.common.contracts import Task
from libs.common.ids import text_of
from libs.common.lifecycle import Fatal
from libs.common.metrics import REGISTRY
from libs.common.redis import RedisAway, translating
from services.dispatcher.retry import Done, Retry, Verdict

PREFIX = "carillon:dispatcher:"
DONE_S = 3600
# A verdict waits here for the broker; longer than any outage that a person would leave alone.
VERDICT_S = 25 * 3600
SUCCESS_S_MAX = 25 * 3600
# Longer than the longest rung that CARILLON_RETRY_SCHEDULE_S may have (a week): what waits there finds it.
CANCEL_S = 8 * 86_400
# One more than the most retries that ingest lets a task have.
ATTEMPTS_MAX = 51
# How long others wait for a replica that died while it called; of one that is well a beat may fail.
CLAIM_S = 8.0
RENEW_EVERY_S = 2.0
# The client's own limits add up: two seconds for a connection of its pool, then two for the answer.
ANSWER_S = 2.0
BATCH_MAX = 200
# One that refuses costs nothing to ask; a frozen one, asked by every task, would cost each its whole time limit.
SILENT_S = 0.5
REST_S = 1.0
# A wait for so much longer than its time limit was not for Redis: this process stood still.
STOOD_STILL_S = ANSWER_S + 0.5

AWAY = Counter(
    "carillon_dispatcher_marks_away_total",
    "Marks not read or written because Redis was away; a crash may then repeat a call",
    ["operation"],
    registry=REGISTRY,
)
LOST = Counter(
    "carillon_dispatcher_claims_lost_total",
    "Claims of calls under way that were not there to be renewed, by what stood in their place: nothing (it is written"
    " again), or another replica's mark (the attempt may be called twice)",
    ["found"],
    registry=REGISTRY,
)

SETTLED, ENDED = "d", "e"

CancelResult = Literal["cancelled", "in-flight", "ended"]
Operation = Literal["claim", "look", "renew", "verdict", "done", "cancelled", "release"]

T = TypeVar("T")

log = structlog.get_logger(__name__)

# ARGV: the marks to write, packed (a list of `_Mark`): each argument of a command costs redis-py as much as packing
# ten of them. A claim has two keys more, of the marks that stand against it, and is not written where one does; a look
# is the same, but never written. The verdict is looked for before the success mark: else the outcome of a call whose
# replica died unpublished would never be heard of. No verdict is written over a verdict or an end: this replica was
# frozen, and others went on. Over a claim it is: its holder may have died, and nobody else tell of the attempt. The
# answer says what stands against which (index, mark, ...).
_WRITE = """
local against = {}
for i, mark in ipairs(cmsgpack.unpack(ARGV[1])) do
    local operation, keys, text, ms = unpack(mark)
    local found = false
    if operation == 'claim' or operation == 'look' then
        local stands = redis.call('MGET', unpack(keys))
        found = stands[1] or stands[2] and 'd' or stands[3] and 'x'
    elseif operation == 'verdict' then
        local stands = redis.call('GET', keys[1])
        found = stands and string.sub(stands, 1, 1) ~= 'c' and stands
    end
    if found then
        against[#against + 1] = i - 1
        against[#against + 1] = found
    elseif operation ~= 'look' then
        redis.call('SET', keys[1], text, 'PX', ms)
    end
end
return against
"""
# KEYS: claims; ARGV: their text and milliseconds. One that is gone is written anew, over another's mark none is. The
# answer says what was not there (index, what was found, ...).
_RENEW = """
local lost = {}
for i, key in ipairs(KEYS) do
    local found = redis.call('GET', key)
    if not found or found == ARGV[1] then
        redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    end
    if found ~= ARGV[1] then
        lost[#lost + 1] = i - 1
        lost[#lost + 1] = found or ''
    end
end
return lost
"""
# KEYS: the cancel mark, the success mark, then the attempts' own.
_CANCEL = """
if redis.call('EXISTS', KEYS[2]) == 1 then
    return 'ended'
end
local answer = 'cancelled'
for i = 3, #KEYS do
    local mark = redis.call('GET', KEYS[i])
    if mark == 'e' then
        return 'ended'
    elseif mark and mark ~= 'd' then
        answer = 'in-flight'
    end
end
redis.call('SET', KEYS[1], 'x', 'EX', ARGV[1])
return answer
"""
# Ours alone: it may have expired, and be another's by now.
_RELEASE = """
return redis.call('GET', KEYS[1]) == 'c' .. ARGV[1] and redis.call('DEL', KEYS[1]) or 0
"""
# A no (MISCONF, a changed password) counts as away: calls without marks are better than none.
_AWAY = (RedisAway, RedisError, Fatal)


class _Mark(NamedTuple):
    """One to write. No bytes: the cmsgpack of Redis reads none."""

    operation: Operation
    keys: tuple[str, ...]
    text: str
    ms: int


class Claimed(msgspec.Struct, frozen=True):
    """Yours: make the call."""


class InFlight(msgspec.Struct, frozen=True):
    """A call of this attempt is under way, or its replica died less than `CLAIM_S` ago."""

    replica: str


class Told(msgspec.Struct, frozen=True):
    """The call was made; publish this, do not call."""

    verdict: Verdict


class Settled(msgspec.Struct, frozen=True):
    """Called and published: nothing is left to do."""


class Cancelled(msgspec.Struct, frozen=True):
    """Somebody has cancelled the task: say so, do not call."""


Standing = InFlight | Told | Settled | Cancelled
Claim = Claimed | Standing


class Marks:
    """The worker renews the claims of calls under way."""

    name = "claims"
    until_last = True  # calls end while the process drains

    def __init__(self, redis: Redis, replica: str) -> None:
        self._redis = redis
        self._replica = replica
        self._mine = f"c{replica}"
        # Keys of our claims, and when each was written.
        self._claimed: dict[str, float] = {}
        self._forked: set[str] = set()
        self._silent_until = 0.0
        self._answered_at = 0.0
        self._is_away = False
        self._write_script = redis.register_script(_WRITE)
        self._renew_script = redis.register_script(_RENEW)
        self._release_script = redis.register_script(_RELEASE)
        self._cancel_script = redis.register_script(_CANCEL)
        self._marks = Coalescer[_Mark, bytes | None](self._write_many, items_max=BATCH_MAX, linger_s=0.001)

    async def run(self, _stopping: asyncio.Event) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self.renew()

    async def renew(self) -> None:
        """One beat. Most calls end before their first."""
        now = asyncio.get_running_loop().time()
        old = [key for key, since in self._claimed.items() if now - since >= RENEW_EVERY_S]
        for at in range(0, len(old), BATCH_MAX):
            await self._renew(old[at : at + BATCH_MAX], now)

    async def claim(self, task: Task) -> Claim:
        """Ask for the attempt `task.attempt`. It is yours until you `tell`, `release` or `abandon`."""
        keys = _claim_keys(task)
        asked_at, against = await self._ask_for(keys)
        if against is None:
            self._claimed[keys[0]] = asked_at
            return Claimed()
        return _standing(against)

    async def look(self, task: Task) -> Standing | None:
        """What stands against a claim; none is made. None too when Redis is away."""
        against = await self._marks.submit(_Mark("look", _claim_keys(task), "", 0))
        return None if against is None else _standing(against)

    async def tell(self, task: Task, verdict: Verdict) -> Told | Settled | None:
        """Write the verdict before its outcome is published. Gives that of another delivery where it stands already."""
        key = attempt_key(task)
        self._claimed.pop(key, None)
        against = await self._write("verdict", key, f"v{msgspec.json.encode(verdict).decode()}", VERDICT_S)
        if against is None:
            return None
        if isinstance(verdict, Done):
            self._forked.add(key)
        return Told(_decode_verdict(against[1:])) if against.startswith(b"v") else Settled()

    async def is_cancelled(self, task: Task) -> bool:
        """False too when Redis is away."""
        return bool(await self._asked(["cancelled"], self._is_cancelled(task)))

    async def cancel(self, id_: UUID, generation: int) -> CancelResult:
        """Let no attempt begin any more, and say whether one is under way. Raises: RedisAway."""
        attempts = [f"{PREFIX}attempt:{id_}:{generation}:{number}" for number in range(1, ATTEMPTS_MAX + 1)]
        keys = [f"{PREFIX}cancel:{id_}:{generation}", f"{PREFIX}success:{id_}:{generation}", *attempts]
        with translating():
            answer: bytes = await self._cancel_script(keys, [CANCEL_S])
        result: CancelResult = msgspec.convert(answer.decode(), CancelResult)
        return result

    async def release(self, task: Task) -> None:
        """Give back a claim of ours that no verdict came of."""
        self._claimed.pop(attempt_key(task), None)
        await self._asked(["release"], self._release(task))

    def abandon(self, task: Task) -> None:
        """Renew a claim of ours no more: what was to come of it was cancelled. It ends by itself."""
        self._claimed.pop(attempt_key(task), None)

    async def settle(self, task: Task, verdict: Verdict, longest_wait_s: float) -> None:
        """The outcome is published. A success that may have a fork is remembered for as long as that may climb: of a
        retry, or where another delivery of the attempt has told before.
        """
        await self._write("done", attempt_key(task), SETTLED if isinstance(verdict, Retry) else ENDED, DONE_S)
        is_forked = attempt_key(task) in self._forked
        self._forked.discard(attempt_key(task))
        if isinstance(verdict, Done) and (task.attempt > 1 or is_forked):
            await self._write("done", success_key(task), SETTLED, min(DONE_S + int(longest_wait_s), SUCCESS_S_MAX))

    async def _ask_for(self, keys: tuple[str, ...]) -> tuple[float, bytes | None]:
        """When it was asked for the claim `keys[0]`, and what stands against it.

        A process that was frozen meanwhile asks again: its time limit is over before it has looked at the answer, and
        others went on without it.
        """
        loop = asyncio.get_running_loop()
        claim = _Mark("claim", keys, self._mine, int(CLAIM_S * 1000))
        asked_at = loop.time()
        against = await self._marks.submit(claim)
        if loop.time() - asked_at > STOOD_STILL_S:
            asked_at = loop.time()
            against = await self._marks.submit(claim)
            if against == self._mine.encode() and keys[0] not in self._claimed:
                against = None  # it was granted the first time
        return asked_at, against

    async def _renew(self, keys: list[str], now: float) -> None:
        answer = await self._asked(["renew"], self._renewed(keys))
        if answer is None:
            return
        held = self._claimed.keys() & keys  # the others were given up while it was asked
        self._claimed.update(dict.fromkeys(held, now))
        lost = [mark for index, mark in zip(answer[::2], answer[1::2], strict=True) if keys[index] in held]
        if lost:
            gone = lost.count(b"")
            LOST.labels("nothing").inc(gone)
            LOST.labels("another").inc(len(lost) - gone)
            log.warning("claims.lost", written_again=gone, taken_by_others=len(lost) - gone)

    async def _renewed(self, keys: list[str]) -> list[Any]:
        with translating():
            async with asyncio.timeout(ANSWER_S):
                answer: list[Any] = await self._renew_script(keys, [self._mine, int(CLAIM_S * 1000)])
        return answer

    async def _write(self, operation: Operation, key: str, text: str, seconds: int) -> bytes | None:
        return await self._marks.submit(_Mark(operation, (key,), text, seconds * 1000))

    async def _write_many(self, marks: list[_Mark]) -> Sequence[bytes | None]:
        """For each what stands against it; None when nothing does, or nobody can know."""
        answer = await self._asked([mark.operation for mark in marks], self._written(marks))
        against: list[bytes | None] = [None] * len(marks)
        if answer:
            for index, mark in zip(answer[::2], answer[1::2], strict=True):
                against[index] = mark
        return against

    async def _written(self, marks: list[_Mark]) -> list[Any]:
        with translating():
            async with asyncio.timeout(ANSWER_S):
                answer: list[Any] = await self._write_script([], [msgspec.msgpack.encode(marks)])
        return answer

    async def _asked(self, operations: Iterable[Operation], asking: Coroutine[Any, Any, T]) -> T | None:
        """What Redis answers; None when it is away, at once when it was silent a moment ago."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        if asked_at < self._silent_until:
            asking.close()
        else:
            try:
                answer = await asking
            except _AWAY as error:
                self._note_away(error)
                # Where others have been answered since, it is only a connection that is dead.
                if SILENT_S < loop.time() - asked_at < STOOD_STILL_S and self._answered_at < asked_at:
                    self._silent_until = loop.time() + REST_S
            else:
                self._note_back()
                self._answered_at, self._silent_until = loop.time(), 0.0
                return answer
        for operation in operations:
            AWAY.labels(operation).inc()
        return None

    def _note_away(self, error: Exception) -> None:
        if not self._is_away:
            log.warning("redis.lost", reason=str(error))
        self._is_away = True

    def _note_back(self) -> None:
        if self._is_away:
            log.info("redis.recovered")
        self._is_away = False

    async def _is_cancelled(self, task: Task) -> int:
        with translating():
            async with asyncio.timeout(ANSWER_S):
                found: int = await self._redis.exists(cancel_key(task))
        return found

    async def _release(self, task: Task) -> None:
        with translating():
            await self._release_script([attempt_key(task)], [self._replica])


def _standing(mark: bytes) -> Standing:
    if mark.startswith(b"c"):
        return InFlight(mark[1:].decode())
    if mark.startswith(b"v"):
        return Told(_decode_verdict(mark[1:]))
    return Cancelled() if mark == b"x" else Settled()


def _claim_keys(task: Task) -> tuple[str, str, str]:
    """The claim's own, and those of the marks of its task that stand against it."""
    who = f"{text_of(task.id)}:{task.generation}"
    return f"{PREFIX}attempt:{who}:{task.attempt}", f"{PREFIX}success:{who}", f"{PREFIX}cancel:{who}"


def attempt_key(task: Task) -> str:
    return f"{PREFIX}attempt:{text_of(task.id)}:{task.generation}:{task.attempt}"


def cancel_key(task: Task) -> str:
    return f"{PREFIX}cancel:{task.id}:{task.generation}"


def success_key(task: Task) -> str:
    return f"{PREFIX}success:{task.id}:{task.generation}"


_decode_verdict = msgspec.json.Decoder(Verdict).decode
