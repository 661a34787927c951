"""The rate limit of a key, shared by all replicas: the generic cell rate algorithm (GCRA) in Redis.

Told to the client in the fields RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11): `q` requests
at once, that come back within `w` seconds; `r` are left of them. `t` is `w` as well, so that `r / t` is a pace that can
be kept up; with none left it is the time until the next one, as Retry-After. Redis away means no limit.
"""

import asyncio
import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from aiohttp import web
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from libs.common.clock import Clock
from libs.common.lifecycle import Fatal
from libs.common.metrics import REGISTRY
from libs.common.redis import RedisAway, translating
from services.ingest.problems import Problem

PREFIX = "carillon:ingest:"
# A request waits so long for Redis at most; after one that waited in vain, none does for a while.
ANSWER_S = 0.25
AWAY_S = 1.0

AWAY = Counter(
    "carillon_ingest_key_limits_away_total",
    "Requests let in without asking their key's limit: no Redis",
    registry=REGISTRY,
)

HEADERS = web.RequestKey("rate_limit_headers", Mapping[str, str])

# Microseconds, by Redis' clock. KEYS: when all of the burst will be there again.
# Gives how long to wait (0: let in), how many are left, and in how long there is one.
_TAKE = """
local step, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local wait = at - (burst - 1) * step - now
if wait > 0 then
    return {wait, 0, wait}
end
at = at + step
redis.call('SET', KEYS[1], string.format('%.0f', at), 'PX', math.ceil((at - now) / 1000))
return {0, math.floor((burst * step - (at - now)) / step), math.max(at - (burst - 1) * step - now, 0)}
"""


class Limit(NamedTuple):
    """Requests a second, after `burst` at once, which is at least a second's worth."""

    per_s: float
    burst: int


class Allowance(NamedTuple):
    """`wait_s` 0: let in, and `left` more; there is one in `next_s`."""

    wait_s: float
    left: int
    next_s: float


class TakesLimits(Protocol):
    """The part of `KeyLimits` that this needs."""

    async def take(self, key_id: str, limit: Limit) -> Allowance | None: ...


class KeyLimits:
    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._script = redis.register_script(_TAKE)
        self._clock = clock
        self._away_until = float("-inf")

    async def take(self, key_id: str, limit: Limit) -> Allowance | None:
        """One request of the key's; None when nobody can say, and it is let in."""
        if self._clock.monotonic() < self._away_until:
            AWAY.inc()
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                with translating():
                    wait_us, left, next_us = await self._script(
                        [f"{PREFIX}limit:{key_id}"], [round(1e6 / limit.per_s), limit.burst]
                    )
        except (TimeoutError, RedisAway, RedisError, Fatal):
            self._away_until = self._clock.monotonic() + AWAY_S
            AWAY.inc()
            return None
        return Allowance(wait_us / 1e6, left, next_us / 1e6)


async def within_limit(request: web.Request, limits: TakesLimits, key_id: str, limit: Limit) -> None:
    """Count this request; whatever its answer, it tells of the limit. Raises: Problem (429)."""
    allowance = await limits.take(key_id, limit)
    if allowance is None:
        return
    request[HEADERS] = headers(limit, allowance)
    if allowance.wait_s:
        raise Problem(
            429,
            "rate_limited",
            f"This key may send {limit.per_s:g} requests a second, after {limit.burst} at once. Send it again after"
            " the seconds in Retry-After.",
            headers={"Retry-After": str(math.ceil(allowance.wait_s))},
        )


def headers(limit: Limit, allowance: Allowance) -> dict[str, str]:
    window_s = math.ceil(limit.burst / limit.per_s)
    in_s = window_s if allowance.left else math.ceil(allowance.next_s)
    return {
        "RateLimit-Policy": f'"key";q={limit.burst};w={window_s}',
        "RateLimit": f'"key";r={allowance.left};t={in_s}',
    }


async def tell_limit(request: web.Request, response: web.StreamResponse) -> None:
    """A signal: before any answer's headers leave."""
    response.headers.update(request.get(HEADERS, {}))
