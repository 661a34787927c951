"""What a run has taken becomes pages. Pure, and bounded whatever comes.

Failures are counted by cause, notices stand in full: the first page of each reader has the causes, and as many pages
as `PAGES_MAX` have the notices. What finds no room is counted.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape

from libs.common.contracts import DigestPage, FailedTask, FallbackEntry, Notice, NoticeTally
from libs.common.digest.render import TEXT_CHARACTERS_MAX
from libs.common.digest.tally import Groups, one_line, tallies_of, trimmed
from libs.common.ids import new_id

PAGES_MAX = 10
"""Mails to the same readers in one run."""
NOTICES_BYTES_MAX = 32 * 1024
"""Of a page, as HTML; a single notice may have more."""
CAUSES_MAX = 300
"""Of a page. A thousand more are remembered, to know what is new."""
SUBJECTS_MAX = 100
SEEN_MAX = 100_000

Recipients = tuple[str, ...]


class Gathering:
    """The entries of one run. `routes` gives the readers of a project; () stands for those of everything else."""

    def __init__(self, routes: Mapping[str, Recipients]) -> None:
        self.unreadable = 0
        self._routes = routes
        self._readers: dict[Recipients, _Reader] = {}
        self._seen: dict[bytes, None] = {}

    def add(self, entries: Iterable[FallbackEntry]) -> None:
        for entry in entries:
            if not self._is_repeated(entry):
                readers = self._routes.get(entry.project, ())
                self._readers.setdefault(readers, _Reader()).add(entry)

    def pages(self, created_at: datetime, known: frozenset[str] | None) -> list[DigestPage]:
        """None when nothing was there; `known` are the causes of the digest before, if anybody remembers."""
        if self.unreadable:
            self._readers.setdefault((), _Reader())
        return [
            page
            for recipients, reader in self._readers.items()
            for page in reader.pages(created_at, known, recipients, 0 if recipients else self.unreadable)
        ]

    def causes(self) -> tuple[str, ...]:
        """All that failed, as it is remembered until the next digest."""
        readers = self._readers.values()
        return tuple(sorted({group.cause.digest for reader in readers for group in reader.failed.worst_first()}))

    def _is_repeated(self, entry: FallbackEntry) -> bool:
        """A redelivered event is the same (id, generation, state), and comes soon after."""
        what = f"{entry.generation} {entry.state}" if isinstance(entry, FailedTask) else ""
        key = entry.id.bytes + what.encode()
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return False


class _Reader:
    """What is for the same people."""

    def __init__(self) -> None:
        self.failed = Groups()
        self._notices: list[list[Notice]] = [[]]
        self._bytes = 0
        self._subjects: dict[tuple[str, str], int] = {}
        self._notices_more = 0

    def add(self, entry: FallbackEntry) -> None:
        if isinstance(entry, FailedTask):
            self.failed.add(entry)
        else:
            self._add_notice(entry)

    def pages(
        self, created_at: datetime, known: frozenset[str] | None, recipients: Recipients, unreadable: int
    ) -> list[DigestPage]:
        groups = self.failed.worst_first()
        shown, hidden = groups[:CAUSES_MAX], groups[CAUSES_MAX:]
        first = DigestPage(
            id=new_id(),
            created_at=created_at,
            number=1,
            failed=tuple(trimmed(group.newest) for group in shown),
            tallies=tallies_of(shown, known),
            failed_more=self.failed.more + sum(group.count for group in hidden),
            notices=tuple(self._notices[0]),
            notice_tallies=tuple(NoticeTally(project=p, subject=s, count=n) for (p, s), n in self._subjects.items()),
            notices_more=self._notices_more,
            unreadable=unreadable,
            recipients=recipients,
        )
        rest = [
            DigestPage(id=new_id(), created_at=created_at, number=number, notices=tuple(notices), recipients=recipients)
            for number, notices in enumerate(self._notices[1:], 2)
        ]
        return [first, *rest]

    def _add_notice(self, notice: Notice) -> None:
        size = _html_bytes(notice)
        page = self._notices[-1]
        if not page or self._bytes + size <= NOTICES_BYTES_MAX:
            page.append(notice)
            self._bytes += size
        elif len(self._notices) < PAGES_MAX:
            self._notices.append([notice])
            self._bytes = size
        else:
            self._count(notice)

    def _count(self, notice: Notice) -> None:
        key = (one_line(notice.project), one_line(notice.subject))
        if key in self._subjects or len(self._subjects) < SUBJECTS_MAX:
            self._subjects[key] = self._subjects.get(key, 0) + 1
        else:
            self._notices_more += 1


def _html_bytes(notice: Notice) -> int:
    return len(escape(notice.subject + notice.message[:TEXT_CHARACTERS_MAX]).encode(errors="replace"))
