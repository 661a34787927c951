"""`POST /v1/tasks/cancel`, `/redrive` and `/purge` for all tasks that a filter lets through; `GET /v1/bulk/{id}`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

import msgspec
import structlog
from aiohttp import web

from libs.common.clock import Clock, format_utc
from services.ingest.bulk import OF_ACTION
from services.ingest.bulk_command import BulkCommands, FindsPlaces, for_action
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.problems import FieldError, invalid, not_found
from services.ingest.requests import field_error, json_body, names_of, read_json
from services.ingest.store_bulk import Action, Bulk
from services.ingest.store_purge import Purged
from services.ingest.task_filter import FilterFields, TaskFilter, read_filter, split_labels

PURGE_IDS_MAX = 1_000

log = structlog.get_logger(__name__)


class BulkFilter(FilterFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As in the query of `GET /v1/tasks`. Without any of these, `all` must be true."""

    all: bool = False


class BulkCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With `dry_run` nothing is done but counting."""

    filter: BulkFilter
    dry_run: bool = False


class PurgeCommand(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either `ids` or a `filter`. Only tasks that have ended are purged."""

    ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=PURGE_IDS_MAX)] | None = None
    filter: BulkFilter | None = None
    dry_run: bool = False


class BulkView(msgspec.Struct, frozen=True, kw_only=True):
    """`id` is null of a dry run. `matched` is a lower bound where `is_exact` is false.

    Of what has been looked at: `done`; `left_alone` because it had moved on; `unknown` where nobody said in time.
    """

    id: UUID | None
    action: Action
    matched: int
    is_exact: bool
    done: int
    left_alone: int
    unknown: int
    submitted_at: str
    finished_at: str | None


class PurgeView(msgspec.Struct, frozen=True, kw_only=True):
    """Erased, or would be by a dry run; not ended, and so left as they are; no tasks of this project."""

    purged: list[UUID]
    waiting: list[UUID]
    unknown: list[UUID]


class _Read(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `BulkCommand` and `PurgeCommand` say, before the labels are split off."""

    filter: dict[str, Any] | None = None
    ids: Annotated[list[UUID], msgspec.Meta(min_length=1, max_length=PURGE_IDS_MAX)] | None = None
    dry_run: bool = False


_decode = msgspec.json.Decoder(_Read).decode


class KeepsBulks(Protocol):
    """The part of `BulkStore` that the door needs."""

    async def add(self, bulk: Bulk) -> None: ...

    async def show(self, project: str, id_: UUID) -> Bulk | None: ...


class Purges(Protocol):
    """`PurgeStore`."""

    async def look(self, project: str, ids: Sequence[UUID]) -> dict[UUID, Purged]: ...

    async def purge(self, project: str, ids: Sequence[UUID]) -> dict[UUID, Purged]: ...


class BulkDoor:
    def __init__(self, bulks: KeepsBulks, lists: FindsPlaces, purges: Purges, clock: Clock) -> None:
        self._bulks = bulks
        self._commands = BulkCommands(bulks, lists, clock)
        self._purges = purges

    def endpoints(self) -> list[Endpoint]:
        of_many = (400, 408, 413, 415, 422, 503)
        return [
            Endpoint(
                method="POST",
                path="/v1/tasks/cancel",
                handler=self.cancel,
                scope="tasks:write",
                summary="Cancel all tasks that a filter lets through, in the background",
                takes={JSON: BulkCommand},
                gives={202: BulkView},
                problems=of_many,
            ),
            Endpoint(
                method="POST",
                path="/v1/tasks/redrive",
                handler=self.redrive,
                scope="tasks:write",
                summary="Start all failed tasks again that a filter lets through, in the background",
                takes={JSON: BulkCommand},
                gives={202: BulkView},
                problems=of_many,
            ),
            Endpoint(
                method="POST",
                path="/v1/tasks/purge",
                handler=self.purge,
                scope="admin",
                summary="Erase payloads and history of ended tasks: of ids at once, of a filter in the background",
                takes={JSON: PurgeCommand},
                gives={200: PurgeView, 202: BulkView},
                problems=of_many,
            ),
            Endpoint(
                method="GET",
                path="/v1/bulk/{id}",
                handler=self.show,
                scope="tasks:read",
                summary="How far a command for many tasks has come",
                gives={200: BulkView},
                problems=(404, 503),
            ),
        ]

    async def cancel(self, request: web.Request) -> web.Response:
        return await self._submit(request, "cancel", await _read(request, ("filter", "dry_run")))

    async def redrive(self, request: web.Request) -> web.Response:
        return await self._submit(request, "redrive", await _read(request, ("filter", "dry_run")))

    async def purge(self, request: web.Request) -> web.Response:
        read = await _read(request, ("ids", "filter", "dry_run"))
        if read.ids is None:
            return await self._submit(request, "purge", read)
        if read.filter is not None:
            raise invalid([FieldError("/filter", "conflict", "stands beside ids; give one of them")])
        caller, ids = caller_of(request), list(dict.fromkeys(read.ids))
        if read.dry_run:
            outcomes = await self._purges.look(caller.project, ids)
        else:
            outcomes = await self._purges.purge(caller.project, ids)
            log.info("tasks.purged", key_id=caller.key_id, ids=len(ids))
        view = PurgeView(
            purged=[id_ for id_ in ids if outcomes[id_] == "purged"],
            waiting=[id_ for id_ in ids if outcomes[id_] == "waiting"],
            unknown=[id_ for id_ in ids if outcomes[id_] == "unknown"],
        )
        return json_response(view)

    async def show(self, request: web.Request) -> web.Response:
        try:
            id_ = UUID(request.match_info["id"])
        except ValueError:
            raise not_found("There is no command under this id, which is no UUID") from None
        bulk = await self._bulks.show(caller_of(request).project, id_)
        if bulk is None:
            raise not_found(f"There is no command {id_}")
        return json_response(_view(bulk))

    async def _submit(self, request: web.Request, action: Action, read: _Read) -> web.Response:
        caller, wanted = caller_of(request), _filter(read.filter, action)
        bulk = await self._commands.prepared(caller.project, caller.key_id, action, wanted)
        if read.dry_run:
            return json_response(_view(bulk, is_dry=True), status=202)
        await self._commands.submit(bulk)
        return json_response(_view(bulk), status=202, headers={"Location": f"/v1/bulk/{bulk.id}"})


async def _read(request: web.Request, names: tuple[str, ...]) -> _Read:
    """Raises: Problem (400, 408, 413, 415, 422)."""
    read = read_json(await json_body(request), _decode, {"": names})
    if "ids" not in names and read.ids is not None:
        raise invalid([FieldError("/ids", "unknown_field", "is not known here; give a filter")])
    if read.filter is None and read.ids is None:
        raise invalid([FieldError("/filter", "required", "filter is missing; add it")])
    return read


def _filter(given: dict[str, Any] | None, action: Action) -> TaskFilter:
    """With the statuses that `action` is for. Raises: Problem (422)."""
    fields, labels = split_labels(given or {})
    try:
        read = msgspec.convert(fields, BulkFilter)
        msgspec.convert(labels, dict[str, str])
    except msgspec.ValidationError as error:
        fault = field_error(str(error), names_of(BulkFilter))
        raise invalid([FieldError(f"/filter{fault.pointer}", fault.code, fault.detail)]) from error
    wanted, errors = read_filter(read, labels)
    if not errors and wanted.is_empty != read.all:
        detail = "is empty, which would mean every task; say so with all: true" if wanted.is_empty else (
            "has all: true beside conditions; leave one of them out"
        )  # fmt: skip
        errors.append(FieldError("", "empty_filter" if wanted.is_empty else "conflict", detail))
    errors += [
        FieldError(
            "status", "bad_status", f"{status} is no status to {action}; there are {', '.join(OF_ACTION[action])}"
        )
        for status in wanted.status
        if status not in OF_ACTION[action]
    ]
    if errors:
        raise invalid([FieldError(f"/filter/{each.pointer}".rstrip("/"), each.code, each.detail) for each in errors])
    return for_action(wanted, action)


def _view(bulk: Bulk, *, is_dry: bool = False) -> BulkView:
    return BulkView(
        id=None if is_dry else bulk.id,
        action=bulk.action,
        matched=bulk.matched,
        is_exact=bulk.is_exact,
        done=bulk.done,
        left_alone=bulk.left_alone,
        unknown=bulk.unknown,
        submitted_at=format_utc(bulk.submitted_at),
        finished_at=_time(bulk.finished_at),
    )


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_utc(moment)
