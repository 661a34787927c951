"""Who is logged in, in Redis: under the digest of a random cookie, so that who reads Redis cannot log in.

A session ends an hour after it was last used, twelve hours after it began, when its user logs out everywhere (the
user's epoch is above its own), and when Redis forgets.
"""

import hashlib
import secrets
from typing import Literal
from uuid import UUID

import msgspec
from redis.asyncio import Redis

from libs.common.clock import Clock
from libs.common.redis import translating

PREFIX = "carillon:ingest:session:"
IDLE_S = 3600
WHOLE_S = 12 * 3600
TOKEN_BYTES = 32
FLASHES_MAX = 8

Kind = Literal["done", "failed"]


class Flash(msgspec.Struct, frozen=True):
    """What came of something, told on the next page."""

    text: str
    kind: Kind = "done"


class Session(msgspec.Struct, kw_only=True):
    """`csrf` stands in every form. `project`: the one that was chosen last."""

    user_id: UUID
    epoch: int
    csrf: str
    began_at: float
    project: str | None = None
    flashes: list[Flash] = []
    key: str = ""


class Sessions:
    """All raise RedisAway."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock

    async def begin(self, user_id: UUID, epoch: int) -> str:
        """A new one, and the token for its cookie."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        session = Session(
            user_id=user_id,
            epoch=epoch,
            csrf=secrets.token_urlsafe(TOKEN_BYTES),
            began_at=self._clock.now().timestamp(),
            key=_key(token),
        )
        with translating():
            await self._redis.set(session.key, msgspec.json.encode(session), ex=IDLE_S)
        return token

    async def find(self, token: str, *, is_use: bool = True) -> Session | None:
        """The session of a cookie; asking for it is using it, unless said otherwise."""
        key = _key(token)
        with translating():
            found = await (self._redis.getex(key, ex=IDLE_S) if is_use else self._redis.get(key))
        if found is None:
            return None
        session = msgspec.json.decode(found, type=Session)
        age_s = self._clock.now().timestamp() - session.began_at
        return session if age_s < WHOLE_S else None

    async def save(self, session: Session) -> None:
        """One that has ended meanwhile, in another tab, stays ended."""
        with translating():
            await self._redis.set(session.key, msgspec.json.encode(session), ex=IDLE_S, xx=True)

    async def end(self, session: Session) -> None:
        with translating():
            await self._redis.delete(session.key)

    async def tell(self, session: Session, flash: Flash) -> None:
        session.flashes = [*session.flashes, flash][-FLASHES_MAX:]
        await self.save(session)

    async def told(self, session: Session) -> list[Flash]:
        """What is to be told now, once."""
        flashes = session.flashes
        if flashes:
            session.flashes = []
            await self.save(session)
        return flashes


def _key(token: str) -> str:
    return PREFIX + hashlib.sha256(token.encode()).hexdigest()
