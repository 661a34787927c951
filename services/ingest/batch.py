"""Many tasks of one request, each taken or refused by itself, and published together."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from libs.common.contracts import CreateTask, Task, encode
from libs.common.egress import EgressRules
from libs.common.ids import derived_id, new_id
from libs.common.publisher import NotPublished
from libs.common.topology import CREATE, Route
from services.ingest.creation import Sender, create
from services.ingest.idempotency import RecentKeys, Use, check_body
from services.ingest.problems import FieldError, Problem, problem_of
from services.ingest.replays import Courtesy, FindsFingerprints
from services.ingest.requests import read_task

TURN_ITEMS = 100
"""Read and checked in one turn of the loop: 2 ms for small tasks."""

Item = bytes | msgspec.Raw | None
"""The JSON of one task; None stands for one that is too large to be looked at."""


class ItemProblem(msgspec.Struct, frozen=True, kw_only=True):
    """RFC 9457, without what belongs to the whole request. Pointers lead into the item."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    errors: Sequence[FieldError] = ()


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the item at `index`: 201 and its `id`, or its `problem` and that one's status."""

    index: int
    status: int
    id: UUID | msgspec.UnsetType = msgspec.UNSET
    problem: ItemProblem | msgspec.UnsetType = msgspec.UNSET


class PublishesMany(Protocol):
    """The part of `Publisher` that this needs."""

    async def publish_many(self, route: Route, items: Sequence[bytes]) -> list[NotPublished | None]: ...


class Asked(NamedTuple):
    """The request that the items came in."""

    project: str
    key: str | None
    now: datetime
    traceparent: str | None


class Rules(NamedTuple):
    egress: EgressRules
    item_bytes_max: int


class Batch:
    """`results` has one for each item so far, in order."""

    def __init__(
        self,
        asked: Asked,
        rules: Rules,
        publisher: PublishesMany,
        history: FindsFingerprints,
        lookups: Courtesy,
        recent: RecentKeys,
    ) -> None:
        self.results: list[BatchResult] = []
        self.created = 0
        self.replayed = 0
        self._asked = asked
        self._rules = rules
        self._publisher = publisher
        self._history = history
        self._lookups = lookups
        self._recent = recent
        self._failure: NotPublished | None = None

    async def take(self, items: Sequence[Item]) -> None:
        """Returns when each is confirmed or has its problem."""
        read = await self._read_all(items)
        known = await self._known([task.id for task in read if isinstance(task, Task)])
        judged = [self._judged(task, known) if isinstance(task, Task) else task for task in read]
        failures = await self._publish([task for task in judged if isinstance(task, Task)])
        for outcome in judged:
            self.results.append(self._result(len(self.results), outcome, failures))

    def refuse(self, problem: Problem) -> None:
        """Give the next item this problem."""
        self.results.append(_refused(len(self.results), problem))

    @property
    def is_replay(self) -> bool:
        """Every task was there before."""
        return self.replayed > 0 and self.created == 0

    async def _read_all(self, items: Sequence[Item]) -> list[Task | Problem]:
        read: list[Task | Problem] = []
        for item in items:
            read.append(self._read(len(self.results) + len(read), item))
            if len(read) % TURN_ITEMS == 0:
                await asyncio.sleep(0)  # other requests get their turn
        return read

    def _read(self, index: int, item: Item) -> Task | Problem:
        if item is None or len(item) > self._rules.item_bytes_max:
            detail = f"The task is larger than {self._rules.item_bytes_max} bytes. Send less."
            return Problem(413, "body_too_large", detail)
        try:
            raw = bytes(item)
            return create(read_task(raw), self._sender(index, hashlib.sha256(raw).hexdigest()), self._rules.egress)
        except Problem as problem:
            return problem

    def _sender(self, index: int, fingerprint: str) -> Sender:
        """Raises: Problem (422) when the key was used for another one."""
        project, key, now, trace = self._asked
        if key is None:
            return Sender(new_id(), project, fingerprint, now, trace)
        id_ = derived_id(project, key, str(index))
        use = self._recent.use(id_, fingerprint)
        return Sender(id_, project, fingerprint, use.created_at if use else now, trace)

    async def _known(self, ids: Sequence[UUID]) -> Mapping[UUID, str]:
        """By id, the fingerprints of those that the history has; a fresh id can be in no history."""
        if self._asked.key is None or not ids:
            return {}
        return await self._lookups.of(lambda: self._history.fingerprints(self._asked.project, ids)) or {}

    def _judged(self, task: Task, known: Mapping[UUID, str]) -> Task | UUID | Problem:
        """To be published, there already, or refused."""
        if self._asked.key is None:
            return task
        fingerprint = known.get(task.id)
        if fingerprint is not None:
            try:
                check_body(task.id, fingerprint, task.fingerprint)
            except Problem as problem:
                return problem
            return task.id
        use = self._recent.use(task.id, task.fingerprint)
        return task.id if use is not None and use.is_confirmed else task

    async def _publish(self, tasks: Sequence[Task]) -> Mapping[UUID, NotPublished]:
        """Those that are not confirmed. After a failure nothing more is tried: each try may take seconds."""
        if self._failure is not None:
            return {task.id: self._failure for task in tasks}
        failures = await self._publisher.publish_many(CREATE, [encode(CreateTask(task=task)) for task in tasks])
        failed = {task.id: error for task, error in zip(tasks, failures, strict=True) if error is not None}
        self._failure = next(iter(failed.values()), None)
        if self._asked.key is not None:
            for task in tasks:
                self._recent.settle(task.id, Use(task.fingerprint, task.created_at), failed.get(task.id))
        return failed

    def _result(self, index: int, outcome: Task | UUID | Problem, failures: Mapping[UUID, NotPublished]) -> BatchResult:
        match outcome:
            case Problem():
                return _refused(index, outcome)
            case UUID():
                self.replayed += 1
                return BatchResult(index=index, status=201, id=outcome)
            case Task() if outcome.id in failures:
                problem = problem_of(failures[outcome.id])
                assert problem is not None
                return _refused(index, problem)
            case Task():
                self.created += 1
                return BatchResult(index=index, status=201, id=outcome.id)


def _refused(index: int, problem: Problem) -> BatchResult:
    document = ItemProblem(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        code=problem.code,
        detail=problem.detail,
        errors=problem.errors,
    )
    return BatchResult(index=index, status=problem.status, problem=document)
