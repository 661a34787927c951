"""A rate limit per target, shared by all replicas: the generic cell rate algorithm (GCRA), with reservations.

Who may not call yet gets the moment at which it may, kept for it, and so comes back once, in order. Redis away means
no limit: a call too early for a limit is better than none.
"""

import random
from collections.abc import Callable

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from libs.common.contracts import TargetRule, Task
from libs.common.lifecycle import Fatal
from libs.common.metrics import REGISTRY
from libs.common.redis import RedisAway, translating
from services.dispatcher.marks import PREFIX

# Nobody is given a moment further away than this; they come back and ask again.
HORIZON_S = 300.0
# A task comes back late when there is a backlog; its moment is kept for so long.
KEPT_S = 60

AWAY = Counter(
    "carillon_dispatcher_limits_away_total", "Calls made without asking their rate limit: no Redis", registry=REGISTRY
)

# Microseconds, by Redis' clock. KEYS: when the next one may call if nothing was saved up; this task's reservation.
_ASK = """
if redis.call('DEL', KEYS[2]) == 1 then
    return 0
end
local step, burst, horizon, kept = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local wait = math.max(at - (burst - 1) * step - now, 0)
if wait > horizon then
    return horizon + 1
end
redis.call('SET', KEYS[1], string.format('%.0f', at + step), 'PX', math.ceil((at + step - now) / 1000) + 1000)
if wait > 0 then
    redis.call('SET', KEYS[2], '', 'PX', math.ceil(wait / 1000) + kept)
end
return math.ceil(wait)
"""


class Limiter:
    def __init__(self, redis: Redis, dice: Callable[[], float] = random.random) -> None:
        self._script = redis.register_script(_ASK)
        self._dice = dice

    async def wait_s(self, task: Task, rule: TargetRule) -> float:
        """0: call now. Else the seconds until the moment that is kept for this attempt."""
        if rule.per_s is None:
            return 0.0
        keys = [f"{PREFIX}limit:{rule.project}:{rule.host}", f"{PREFIX}slot:{task.id}:{task.generation}:{task.attempt}"]
        arguments = [round(1e6 / rule.per_s), rule.burst, round(HORIZON_S * 1e6), KEPT_S * 1000]
        try:
            with translating():
                wait_us: int = await self._script(keys, arguments)
        except (RedisAway, RedisError, Fatal):
            AWAY.inc()
            return 0.0
        if wait_us > HORIZON_S * 1e6:
            return HORIZON_S * (1 + self._dice()) / 2  # not all of them at one instant
        return wait_us / 1e6
