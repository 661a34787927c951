"""A mail at once about failures that cannot wait for the digest: those of tasks with a label that a setting names.

Beside the fallback entry, never in place of it: what is too much for single mails is in the digest, as everything is.
"""

import time
from collections.abc import Callable, Collection

from prometheus_client import Counter

from libs.common.contracts import DigestPage, FailedTask, Tally, encode
from libs.common.ids import derived_id
from libs.common.metrics import REGISTRY
from libs.common.publisher import Publisher
from libs.common.topology import URGENT_NOTICE

MAILS_MAX, IN_S = 10, 600.0
"""Of one replica. A host that goes down fails hundreds, and the eleventh mail tells nobody anything."""

URGENT = Counter(
    "carillon_dispatcher_urgent_failures_total",
    "Failures with a label of CARILLON_URGENT_LABELS: told at once, or left to the digest because they were many",
    ["outcome"],
    registry=REGISTRY,
)


class Urgent:
    """`labels`: pairs of name and value; a task with one of them is urgent."""

    def __init__(
        self,
        labels: Collection[tuple[str, str]],
        publisher: Publisher,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._labels = frozenset(labels)
        self._publisher = publisher
        self._monotonic = monotonic
        self._room = float(MAILS_MAX)
        self._filled_at = monotonic()

    async def tell(self, task: FailedTask) -> None:
        """Returns when the page is confirmed; the same page for the same failure."""
        if self._labels.isdisjoint(task.labels.items()):
            return
        if not self._has_room():
            URGENT.labels("left").inc()
            return
        page = DigestPage(
            id=derived_id(task.project, "urgent", str(task.id), str(task.generation)),
            created_at=task.failed_at,
            number=1,
            failed=(task,),
            tallies=(Tally(count=1, first_at=task.failed_at, last_at=task.failed_at),),
            is_urgent=True,
        )
        await self._publisher.insist(URGENT_NOTICE, encode(page))
        URGENT.labels("told").inc()

    def _has_room(self) -> bool:
        now = self._monotonic()
        self._room = min(MAILS_MAX, self._room + (now - self._filled_at) * MAILS_MAX / IN_S)
        self._filled_at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True
