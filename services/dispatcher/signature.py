"""The Standard Webhooks headers of an attempt: who it is, when it was made, and that it comes from us.

Signed with the project's current secret, and for as long as a rotation overlaps with the one before it too, so that
receivers may change over at any moment of it.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from typing import NamedTuple

from libs.common.contracts import Task
from libs.common.ids import text_of
from libs.common.signing import secret, sign

# To derive one costs twice a signature, and most calls are for few projects.
SECRETS_KEPT = 1024


class Versions(NamedTuple):
    """Which secrets of a project are in use: `current`, and until `previous_until` the one before it."""

    current: int = 1
    previous_until: datetime | None = None


VersionsOf = Callable[[str], Versions]
"""By project; asked at every attempt, so it answers from memory."""


def never_rotated(_project: str) -> Versions:
    return Versions()


class Signer:
    def __init__(self, master_key: str, versions_of: VersionsOf = never_rotated) -> None:
        self._versions_of = versions_of
        self._secret = lru_cache(SECRETS_KEPT)(partial(secret, master_key))

    def headers(self, task: Task, body: bytes, now: datetime) -> tuple[tuple[str, str], ...]:
        """`webhook-id` is the same on every attempt, the others are not. `body` is what will be sent, to the byte."""
        id, timestamp = text_of(task.id), int(now.timestamp())
        secrets = [self._secret(task.project, version) for version in self._versions(task.project, now)]
        return (
            ("webhook-id", id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", " ".join([sign(each, id, timestamp, body) for each in secrets])),
        )

    def _versions(self, project: str, now: datetime) -> tuple[int, ...]:
        versions = self._versions_of(project)
        if versions.previous_until is not None and now < versions.previous_until:
            return versions.current, versions.current - 1
        return (versions.current,)
