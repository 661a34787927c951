"""Makes tasks, for every door that takes one at a time: with a key, the same task however often it is asked for.

Returns after the broker's confirm, never before. All raise Problem (409, 422) and NotPublished.
"""

from typing import NamedTuple, Protocol

import structlog

from libs.common.clock import format_utc
from libs.common.contracts import CreateTask, Task, encode
from libs.common.egress import EgressRules
from libs.common.publisher import NotPublished
from libs.common.topology import CREATE, Route
from services.ingest.creation import Sender, create
from services.ingest.idempotency import RecentKeys, Use, check_body
from services.ingest.replays import FindsTasks, Replays
from services.ingest.requests import NewTask
from services.ingest.stored import StoredTask, just_created


class Publishes(Protocol):
    """The part of `Publisher` that the doors need."""

    async def publish(self, route: Route, item: bytes) -> None:
        """Return when it is confirmed. Raises: NotPublished."""


class Created(NamedTuple):
    """`is_replay`: it was there before."""

    task: StoredTask
    is_replay: bool = False


class TaskCreator:
    def __init__(self, publisher: Publishes, history: FindsTasks, egress: EgressRules) -> None:
        self._publisher = publisher
        self._replays = Replays(history)
        self._recent = RecentKeys()
        self._egress = egress
        self._log = structlog.get_logger(__name__).bind()  # once: a line per task costs enough

    async def create(self, new: NewTask, sender: Sender) -> Created:
        return await self._published(create(new, sender, self._egress))

    async def create_once(self, new: NewTask, sender: Sender) -> Created:
        """The task of a key, from which `sender.id` derives, made now or before."""
        with self._recent.claimed(sender.id, sender.fingerprint):
            return await self._once(new, sender)

    async def _once(self, new: NewTask, sender: Sender) -> Created:
        use = self._recent.use(sender.id, sender.fingerprint)
        if use is not None:
            sender = sender._replace(now=use.created_at)  # the same times again
        task = create(new, sender, self._egress)
        earlier = await self._replays.earlier(sender.project, sender.id)
        if earlier is not None:
            check_body(sender.id, earlier.fingerprint, sender.fingerprint)
        elif use is not None and use.is_confirmed:
            earlier = just_created(task)  # not projected yet
        if earlier is not None:
            return Created(earlier, is_replay=True)
        this = Use(sender.fingerprint, sender.now)
        try:
            created = await self._published(task)
        except NotPublished as error:
            self._recent.settle(sender.id, this, error)
            raise
        self._recent.settle(sender.id, this, None)
        return created

    async def _published(self, task: Task) -> Created:
        await self._publisher.publish(CREATE, encode(CreateTask(task=task)))
        self._log.info("task.created", task_id=str(task.id), due_at=format_utc(task.due_at))
        return Created(just_created(task))
