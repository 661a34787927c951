"""What operators have set: paused targets, rate limits, versions of signing secrets.

    SetControl --> dispatcher.commands --> whichever replica takes it --> Redis --> every replica, each second

ingest owns all of it and sends the whole again now and then, so a Redis that lost it heals. A replica that cannot read
Redis goes on with what it knows.
"""

import asyncio
from typing import Final

import msgspec
import structlog
from prometheus_client import Gauge
from redis.asyncio import Redis

from libs.common.contracts import SetControl, SigningRule, TargetRule, encode
from libs.common.lifecycle import pause
from libs.common.metrics import REGISTRY
from libs.common.redis import RedisAway, translating
from services.dispatcher.marks import PREFIX
from services.dispatcher.signature import Versions

READ_EVERY_S = 1.0
TARGETS: Final = f"{PREFIX}control:targets"
SIGNING: Final = f"{PREFIX}control:signing"
VERSION: Final = f"{PREFIX}control:version"

PAUSED = Gauge("carillon_dispatcher_paused_targets", "Hosts whose calls a project has paused", registry=REGISTRY)

# A value is the rule's command id (36 characters, in order of time as text) and its JSON. The newest stands.
_WRITE = """
local asOf, isAll = ARGV[1], ARGV[2] == '1'
local named = {}
for i = 3, #ARGV, 3 do
    local field, commandId, rule = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    named[field] = true
    local held = redis.call('HGET', KEYS[1], field)
    if not held or string.sub(held, 1, 36) < commandId then
        redis.call('HSET', KEYS[1], field, commandId .. rule)
    end
end
if isAll then
    local held = redis.call('HGETALL', KEYS[1])
    for i = 1, #held, 2 do
        if not named[held[i]] and string.sub(held[i + 1], 1, 36) < asOf then
            redis.call('HDEL', KEYS[1], held[i])
        end
    end
end
return redis.call('INCR', KEYS[2])
"""

log = structlog.get_logger(__name__)

_read_target = msgspec.json.Decoder(TargetRule).decode
_read_signing = msgspec.json.Decoder(SigningRule).decode
_ID_CHARACTERS = 36


class Control:
    """The rules as this replica knows them."""

    name = "control"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._write_script = redis.register_script(_WRITE)
        self._targets: dict[tuple[str, str], TargetRule] = {}
        self._signing: dict[str, SigningRule] = {}
        self._version: bytes | str | None = None

    def target(self, project: str, host: str) -> TargetRule | None:
        return self._targets.get((project, host))

    def versions(self, project: str) -> Versions:
        rule = self._signing.get(project)
        return Versions() if rule is None else Versions(rule.version, rule.previous_until)

    async def run(self, stopping: asyncio.Event) -> None:
        while not await pause(stopping, READ_EVERY_S):
            await self.read()

    async def read(self) -> None:
        """Take over what has changed."""
        try:
            with translating():
                version = await self._redis.get(VERSION)
                if version == self._version:
                    return
                targets, signing = await self._redis.hvals(TARGETS), await self._redis.hvals(SIGNING)
        except RedisAway:
            return  # `marks.py` tells of it
        if version is None:
            return  # Redis has lost it: what we know holds until ingest sends it again
        rules = [_read_target(value[_ID_CHARACTERS:]) for value in targets]
        self._targets = {(rule.project, rule.host): rule for rule in rules}
        self._signing = {rule.project: rule for rule in map(_read_signing, (v[_ID_CHARACTERS:] for v in signing))}
        self._version = version
        PAUSED.set(sum(rule.is_paused for rule in rules))
        log.info("control.read", targets=len(self._targets), projects=len(self._signing))

    async def write(self, command: SetControl) -> None:
        """Store it for all replicas. Raises: RedisAway."""
        targets = [(f"{rule.project} {rule.host}", rule.command_id, encode(rule)) for rule in command.targets]
        signing = [(rule.project, rule.command_id, encode(rule)) for rule in command.signing]
        for key, rules in ((TARGETS, targets), (SIGNING, signing)):
            if rules or command.is_all:
                named = [part for field, id_, rule in rules for part in (field, str(id_), rule)]
                with translating():
                    await self._write_script([key, VERSION], [str(command.command_id), int(command.is_all), *named])
