"""Which tasks of a list of ids the history knows, and from what request each was made."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from libs.common.postgres import Postgres

_FINGERPRINTS = "SELECT id, fingerprint FROM task WHERE id = ANY($1) AND project = $2 AND accepted_generation > 0"


class FingerprintStore:
    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def fingerprints(self, project: str, ids: Sequence[UUID]) -> Mapping[UUID, str]:
        """Of those that are known."""
        async with self._postgres.acquire() as connection:
            records = await connection.fetch(_FINGERPRINTS, ids, project)
        return {id_: fingerprint for id_, fingerprint in records}
