"""`POST /v1/tasks/batch`: up to a thousand tasks in one request, each taken or refused by itself.

A JSON body is read whole before its first task is taken. NDJSON is taken as it arrives: what ends the reading early
(too many lines, too many bytes, too slow) gets one result, at the index of the first line that was not read; the lines
before it stand.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock
from libs.common.ids import derived_id
from services.ingest.batch import Asked, Batch, BatchResult, PublishesMany, Rules
from services.ingest.bodies import chunks
from services.ingest.creation import this_millisecond
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.idempotency import RecentKeys, idempotency_key
from services.ingest.lines import Lines
from services.ingest.problems import FieldError, Problem, invalid, unsupported_media_type
from services.ingest.replays import Courtesy, FindsFingerprints
from services.ingest.requests import NewTask, names_of, read_json
from services.ingest.trace import traceparent

ITEMS_MAX = 1_000
BATCH_BYTES_MAX = 8 * 1024 * 1024
NDJSON = "application/x-ndjson"

log = structlog.get_logger(__name__)


class NewBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each task is read by itself, so that one that is wrong harms no other."""

    tasks: Annotated[list[NewTask], msgspec.Meta(max_length=ITEMS_MAX)]


class BatchResults(msgspec.Struct, frozen=True, kw_only=True):
    """One for each task, in their order."""

    results: Sequence[BatchResult]


class _RawBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tasks: list[msgspec.Raw]


_decode = msgspec.json.Decoder(_RawBatch).decode


class BatchDoor:
    def __init__(self, publisher: PublishesMany, history: FindsFingerprints, clock: Clock, rules: Rules) -> None:
        self._publisher = publisher
        self._history = history
        self._clock = clock
        self._rules = rules
        self._lookups = Courtesy()
        self._recent = RecentKeys()

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="POST",
                path="/v1/tasks/batch",
                handler=self.create,
                scope="tasks:write",
                summary="Schedule up to 1,000 calls",
                takes={JSON: NewBatch, NDJSON: NewTask},
                headers=("Idempotency-Key", "traceparent"),
                gives={200: BatchResults},
                problems=(400, 408, 409, 413, 415, 422),
            )
        ]

    async def create(self, request: web.Request) -> web.Response:
        """200 when each task has its answer."""
        project, key = caller_of(request).project, idempotency_key(request)
        asked = Asked(project, key, this_millisecond(self._clock.now()), traceparent(request))
        batch = Batch(asked, self._rules, self._publisher, self._history, self._lookups, self._recent)
        if key is None:
            await self._read(request, batch)
        else:
            with self._recent.claimed(derived_id(project, key, "batch"), ""):
                await self._read(request, batch)
        log.info("batch.created", tasks=len(batch.results), created=batch.created, replayed=batch.replayed)
        headers = {"Idempotency-Replayed": "true"} if batch.is_replay else None
        return json_response(BatchResults(results=batch.results), headers=headers)

    async def _read(self, request: web.Request, batch: Batch) -> None:
        if request.content_type == NDJSON:
            await self._read_lines(request, batch)
        elif "Content-Type" not in request.headers or request.content_type == JSON:
            await batch.take(await _read_array(request))
        else:
            raise unsupported_media_type(f"{JSON} or {NDJSON}")

    async def _read_lines(self, request: web.Request, batch: Batch) -> None:
        lines = Lines(self._rules.item_bytes_max)
        try:
            async for chunk in chunks(request, BATCH_BYTES_MAX):
                await _take_lines(batch, list(lines.feed(chunk)))
            await _take_lines(batch, list(lines.end()))
        except Problem as problem:
            if not batch.results:
                raise
            batch.refuse(problem)


async def _read_array(request: web.Request) -> Sequence[msgspec.Raw]:
    raw = b"".join([chunk async for chunk in chunks(request, BATCH_BYTES_MAX)])
    tasks = _tasks(raw)
    if len(tasks) > ITEMS_MAX:
        raise invalid([FieldError("/tasks", "too_many", f"are {len(tasks)}; send at most {ITEMS_MAX} at once")])
    return tasks


def _tasks(raw: bytes) -> Sequence[msgspec.Raw]:
    """Raises: Problem (400, 422)."""
    if raw.count(b'"tasks"') == 1:  # else it may stand twice, which is looked for below; in each task, when it is read
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _decode(raw).tasks
    return read_json(raw, _decode, names_of(NewBatch)).tasks


async def _take_lines(batch: Batch, lines: Sequence[bytes | None]) -> None:
    """Raises: Problem (413) after the last line that a batch may have."""
    left = ITEMS_MAX - len(batch.results)
    await batch.take(lines[:left])
    if len(lines) > left:
        detail = f"A batch has at most {ITEMS_MAX} tasks. This line and those after it were not read: send them again."
        raise Problem(413, "too_many", detail)
