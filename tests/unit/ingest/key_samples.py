"""Keys to test with, a clock that a test moves by hand, and a table of keys that is a dict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from libs.common.ids import new_id
from libs.common.postgres import PostgresAway
from services.ingest.key_text import digest, new_key
from services.ingest.store_keys import StoredKey

NOW = datetime(2027, 3, 1, 9, tzinfo=UTC)


@dataclass
class HandClock:
    passed_s: float = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return 1_000_000 + self.passed_s


def a_key(text: str | None = None, **different: Any) -> StoredKey:
    usual = {"project": "shop", "name": "a key", "scopes": ("tasks:write",), "per_s": None, "burst": None}
    made = {"id": new_id(), "digest": digest(text or new_key()), "created_at": NOW, **usual}
    return StoredKey(**{**made, **different})


@dataclass
class FakeKeyStore:
    """Away while `is_away`. Counts its look-ups."""

    keys: dict[UUID, StoredKey] = field(default_factory=dict)
    is_away: bool = False
    looked_up: list[Sequence[bytes]] = field(default_factory=list)
    changes: list[StoredKey] = field(default_factory=list)
    last_uses: list[Mapping[UUID, datetime]] = field(default_factory=list)

    def put(self, *keys: StoredKey) -> None:
        """As if somebody else had written them."""
        for key in keys:
            self.keys[key.id] = key
            self.changes.append(key)

    async def find(self, digests: Sequence[bytes]) -> list[StoredKey]:
        self.looked_up.append(digests)
        self._ask()
        return [key for key in self.keys.values() if key.digest in digests]

    async def changed(self, since: datetime | None) -> tuple[datetime, list[StoredKey]]:
        self._ask()
        return NOW, [] if since is None else list(self.changes)

    async def used(self, when: Mapping[UUID, datetime], every: timedelta) -> None:
        self._ask()
        self.last_uses.append(when)

    async def show(self, project: str, id_: UUID) -> StoredKey | None:
        self._ask()
        key = self.keys.get(id_)
        return key if key is not None and key.project == project else None

    async def page(self, project: str, after: UUID | None, limit: int) -> list[StoredKey]:
        self._ask()
        keys = sorted((key for key in self.keys.values() if key.project == project), key=lambda key: key.id)
        return [key for key in reversed(keys) if after is None or key.id < after][:limit]

    async def add(self, key: StoredKey) -> bool:
        self._ask()
        self.put(key)
        return True

    async def revoke(self, project: str, id_: UUID, now: datetime) -> StoredKey | None:
        key = await self.show(project, id_)
        if key is None:
            return None
        self.put(key._replace(revoked_at=key.revoked_at or now))
        return self.keys[id_]

    async def replace(self, old: UUID, new: StoredKey, until: datetime) -> Literal["done", "ended", "full"]:
        key = await self.show(new.project, old)
        if key is None or key.replaced_by or key.revoked_at or (key.expires_at and key.expires_at <= new.created_at):
            return "ended"
        self.put(key._replace(replaced_by=new.id, expires_at=min(key.expires_at or until, until)), new)
        return "done"

    def _ask(self) -> None:
        if self.is_away:
            raise PostgresAway("away")
