"""The header Idempotency-Key: who is using a key now, and what this process did with the latest ones.

None of it keeps a task from being made twice: the task's id does, which derives from project and key. It is for the
answers, in the time before the history knows a task: "still running", "another body", "here is the first one again".
Another replica does not see it; there such a repeat is published again under the same id, and the scheduler keeps the
first.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from aiohttp import web

from libs.common.publisher import NotPublished, Refused, Unroutable
from services.ingest.problems import RETRY_AFTER_S, Problem

HEADER = "Idempotency-Key"
KEYS_MAX = 20_000
"""Kept per process, about 0.5 kB each: some seconds of creates, while the projection takes 0.2."""

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Use(NamedTuple):
    """What a key was used for. Not confirmed: the task may be there or not."""

    fingerprint: str
    created_at: datetime
    is_confirmed: bool = False


def idempotency_key(request: web.Request) -> str | None:
    """Raises: Problem (422)."""
    keys = request.headers.getall(HEADER, ())
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        detail = f"The header {HEADER} must be one of 1 to 255 visible ASCII characters: send a UUID, for example."
        raise Problem(422, "bad_idempotency_key", detail)
    return keys[0]


def check_body(id_: UUID, known: str, given: str) -> None:
    """Raises: Problem (422) unless these fingerprints are the same: of a key's task, and of the body that is here."""
    if known == given:
        return
    why, remedy = "was made from another body", "Send the same body to get it again, or a new key for a new task."
    if not known:
        why, remedy = "has been purged", "Send a new key for a new task."
    detail = f"This Idempotency-Key belongs to the task {id_}, which {why}. {remedy}"
    raise Problem(422, "idempotency_key_reused", detail)


class RecentKeys:
    """Of one process, by the id that derives from the key."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._running: dict[UUID, str] = {}
        self._uses: OrderedDict[UUID, Use] = OrderedDict()

    @contextmanager
    def claimed(self, id_: UUID, fingerprint: str) -> Iterator[None]:
        """While the block runs nobody else uses the key. Raises: Problem (409, 422) when somebody does."""
        running = self._running.get(id_)
        if running is not None:
            check_body(id_, running, fingerprint)
            raise _in_progress()
        self._running[id_] = fingerprint
        try:
            yield
        finally:
            del self._running[id_]

    def use(self, id_: UUID, fingerprint: str) -> Use | None:
        """The latest use, if this process knows one. Raises: Problem (422) when it was with another body."""
        use = self._uses.get(id_)
        if use is not None:
            check_body(id_, use.fingerprint, fingerprint)
        return use

    def settle(self, id_: UUID, use: Use, failure: NotPublished | None) -> None:
        """Remember how the publish for `use` ended. What the broker refused is not there, and leaves the key free."""
        if isinstance(failure, Refused | Unroutable):
            return
        self._uses[id_] = use._replace(is_confirmed=failure is None)
        self._uses.move_to_end(id_)
        if len(self._uses) > self._keys_max:
            self._uses.popitem(last=False)


def _in_progress() -> Problem:
    detail = "A request with this Idempotency-Key is still running. Repeat it when that one has ended."
    return Problem(409, "in_progress", detail, headers={"Retry-After": str(RETRY_AFTER_S)})
