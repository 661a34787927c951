"""`GET /v1/tasks`: the tasks of a project that a filter lets through, newest first, page by page."""

from datetime import datetime
from typing import Annotated, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from libs.common.clock import Clock
from libs.common.contracts import Call, encode
from services.ingest.cursor import NEWEST, Place, read_cursor, write_cursor
from services.ingest.endpoint import Endpoint, caller_of, json_response
from services.ingest.problems import bad_query
from services.ingest.requests import field_error, names_of
from services.ingest.store_filter import Asked
from services.ingest.store_lists import ListedTask
from services.ingest.task_filter import FilterFields, TaskFilter, read_filter, split_labels
from services.ingest.view import LastAttemptView, task_view

LIMIT_MAX = 250


class TasksQuery(FilterFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = 50
    cursor: str | None = None


class ListedTaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A Task in a list: what became of it, and of what was sent what it is found by. Ask for it by id for the rest.

    `url` is its beginning where it has more than 2,000 bytes.
    """

    id: UUID
    project: str
    status: str
    url: str
    method: str
    created_at: str
    due_at: str
    expires_at: str | None
    labels: dict[str, str]
    schedule: str | None
    attempt_count: int
    next_attempt_at: str | None
    first_attempt_at: str | None
    finished_at: str | None
    lateness_ms: int | None
    last_attempt: LastAttemptView | None


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. There is more as long as `next_cursor` is there, also behind a page that is short or empty."""

    data: list[ListedTaskView]
    next_cursor: str | None


class ListsTasks(Protocol):
    """The part of `Lists` that this needs."""

    async def page(self, asked: Asked, before: Place, limit: int) -> tuple[list[ListedTask], Place | None]: ...


class TaskListDoor:
    def __init__(self, lists: ListsTasks, clock: Clock) -> None:
        self._lists = lists
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="GET",
                path="/v1/tasks",
                handler=self.list,
                scope="tasks:read",
                summary="Tasks, newest first: by status, label, URL, due or creation time, or schedule",
                query=TasksQuery,
                gives={200: TaskList},
                problems=(400, 503),
            )
        ]

    async def list(self, request: web.Request) -> web.Response:
        project, now = caller_of(request).project, self._clock.now()
        query, wanted = _read(request)
        scope = project.encode() + b"\0" + wanted.canonical()
        before = NEWEST if query.cursor is None else read_cursor(query.cursor, scope)
        tasks, place = await self._lists.page(Asked(project, wanted, now), before, query.limit)
        cursor = None if place is None else write_cursor(place, scope)
        views = [_view(listed, now) for listed in tasks]
        links = {} if cursor is None else {"Link": f'<{request.rel_url.update_query(cursor=cursor)}>; rel="next"'}
        return json_response(TaskList(data=views, next_cursor=cursor), headers=links)


def _read(request: web.Request) -> tuple[TasksQuery, TaskFilter]:
    """Raises: Problem (400)."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise bad_query(name, "it stands twice; give it once")
        given[name] = value
    fields, labels = split_labels(given)
    try:
        query = msgspec.convert(fields, TasksQuery, strict=False)
    except msgspec.ValidationError as error:
        fault = field_error(str(error), names_of(TasksQuery))
        raise bad_query(fault.pointer.strip("/"), fault.detail) from error
    wanted, errors = read_filter(query, labels)
    if errors:
        raise bad_query(errors[0].pointer, errors[0].detail)
    return query, wanted


def _view(listed: ListedTask, now: datetime) -> ListedTaskView:
    """In the very words of the Task."""
    call = msgspec.Raw(encode(Call(url=listed.url, method=listed.method)))
    whole = task_view(listed.task._replace(call=call), now)
    names = set(ListedTaskView.__struct_fields__) & set(whole.__struct_fields__)
    return ListedTaskView(**{name: getattr(whole, name) for name in names}, schedule=listed.schedule)
