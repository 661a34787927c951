"""What failed alike is one group: same state, same host, same error. Pure, and bounded whatever comes.

A million failures have few causes. A group keeps its count, its newest task and when the first and the last of it
failed; causes beyond `GROUPS_MAX` are counted together.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from libs.common.contracts import DigestPage, FailedTask, Tally
from libs.common.logs import redacted

GROUPS_MAX = 1_000
LINE_CHARACTERS_MAX = 300
"""Of a URL or an error's detail."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control, format (directions, zero width), surrogates, line and paragraph separators.
_UNSHOWABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


class Cause(NamedTuple):
    """What the failures of a group share, each part a single line."""

    state: str
    host: str
    error: str

    @property
    def digest(self) -> str:
        """16 hex digits that stand for it from one digest to the next."""
        return blake2b("\n".join(self).encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Group:
    """Failures alike. `newest` is the one that failed last."""

    cause: Cause
    newest: FailedTask
    first_at: datetime
    last_at: datetime
    count: int = 1
    is_new: bool = False


class Groups:
    """Failures as they come, counted."""

    def __init__(self) -> None:
        self.more = 0
        """Failures of causes beyond the first `GROUPS_MAX`."""
        self._groups: dict[Cause, Group] = {}

    def __len__(self) -> int:
        return self.more + sum(group.count for group in self._groups.values())

    def add(self, task: FailedTask) -> None:
        cause = cause_of(task)
        group = self._groups.get(cause)
        if group is not None:
            _grow(group, task)
        elif len(self._groups) < GROUPS_MAX:
            self._groups[cause] = Group(cause, task, task.failed_at, task.failed_at)
        else:
            self.more += 1

    def worst_first(self) -> list[Group]:
        """Largest first."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.cause))


def groups_of(page: DigestPage) -> list[Group]:
    """The page's own; counted here when it has only tasks."""
    if page.failed and not page.tallies:
        return _counted(page.failed)
    return [
        Group(cause_of(task), task, tally.first_at, tally.last_at, tally.count, tally.is_new)
        for task, tally in zip(page.failed, page.tallies, strict=True)
    ]


def tallies_of(groups: Sequence[Group], known: frozenset[str] | None) -> tuple[Tally, ...]:
    """As they travel. New is what is not among `known`; nothing is when that is None."""
    return tuple(
        Tally(
            count=group.count,
            first_at=group.first_at,
            last_at=group.last_at,
            is_new=known is not None and group.cause.digest not in known,
        )
        for group in groups
    )


def cause_of(task: FailedTask) -> Cause:
    status = None if task.status_code is None else f"HTTP {task.status_code}"
    error = None if status and task.error == "status" else task.error
    error = one_line(", ".join(part for part in (error, status) if part)) or "no answer"
    return Cause(task.state, _host(task.url), error)


def one_line(text: str, characters_max: int = LINE_CHARACTERS_MAX) -> str:
    """`text` without passwords, and with what is no visible character made visible."""
    safe = "".join(_REPLACEMENT if unicodedata.category(char) in _UNSHOWABLE else char for char in redacted(text))
    return safe if len(safe) <= characters_max else f"{safe[:characters_max]}..."


def _counted(tasks: Iterable[FailedTask]) -> list[Group]:
    groups = Groups()
    for task in tasks:
        groups.add(task)
    return groups.worst_first()


def _grow(group: Group, task: FailedTask) -> None:
    group.count += 1
    group.first_at = min(group.first_at, task.failed_at)
    if (task.failed_at, task.id) >= (group.last_at, group.newest.id):
        group.last_at, group.newest = task.failed_at, task


def trimmed(task: FailedTask) -> FailedTask:
    """No more of it than a mail shows, so that a page stays small. Labels and URL are the client's, and unbounded."""
    return msgspec.structs.replace(
        task,
        url=task.url[: 2 * LINE_CHARACTERS_MAX],
        error_detail=task.error_detail and task.error_detail[: 2 * LINE_CHARACTERS_MAX],
        labels={},
    )


def _host(url: str) -> str:
    try:
        return one_line(urlsplit(url).netloc.rpartition("@")[2].lower()) or "no host"
    except ValueError:
        return "unreadable URL"
