"""`/v1/tasks/{id}`: move, run, cancel and redrive one task. Each answers with the Task as the command left it."""

import msgspec
from aiohttp import web

from libs.common.clock import Clock
from services.ingest.endpoint import JSON, Endpoint, caller_of, json_response
from services.ingest.replays import FindsTasks
from services.ingest.requests import Fields, LocalTime, NewTime, json_body, read_json
from services.ingest.stored import StoredTask
from services.ingest.task_changes import TaskChanges
from services.ingest.task_commands import TaskCommands
from services.ingest.view import TaskView, task_view

_FIELDS: Fields = {"": NewTime.__struct_fields__, "/local_time": LocalTime.__struct_fields__}
_decode = msgspec.json.Decoder(NewTime).decode


class CommandDoor:
    def __init__(self, tasks: TaskCommands, history: FindsTasks, clock: Clock) -> None:
        self._changes = TaskChanges(tasks, history, clock)
        self._clock = clock

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="PATCH",
                path="/v1/tasks/{id}",
                handler=self.move,
                scope="tasks:write",
                summary="Another time for a task that waits for its first call",
                takes={JSON: NewTime},
                gives={200: TaskView},
                problems=(400, 404, 408, 409, 413, 415, 422, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/tasks/{id}/run",
                handler=self.run,
                scope="tasks:write",
                summary="Call a waiting task now",
                gives={200: TaskView},
                problems=(404, 409, 503),
            ),
            Endpoint(
                method="DELETE",
                path="/v1/tasks/{id}",
                handler=self.cancel,
                scope="tasks:write",
                summary="Cancel a task: 200 when no call follows, 202 while one is under way or nothing is known",
                gives={200: TaskView, 202: TaskView},
                problems=(404, 409, 503),
            ),
            Endpoint(
                method="POST",
                path="/v1/tasks/{id}/redrive",
                handler=self.redrive,
                scope="tasks:write",
                summary="Start a failed, expired or parked task again, with a fresh ladder",
                gives={200: TaskView},
                problems=(404, 409, 503),
            ),
        ]

    async def move(self, request: web.Request) -> web.Response:
        new = read_json(await json_body(request), _decode, _FIELDS)
        return _moved(await self._changes.move(caller_of(request).project, request.match_info["id"], new))

    async def run(self, request: web.Request) -> web.Response:
        return _moved(await self._changes.run(caller_of(request).project, request.match_info["id"]))

    async def cancel(self, request: web.Request) -> web.Response:
        task, is_certain = await self._changes.cancel(caller_of(request).project, request.match_info["id"])
        return json_response(task_view(task, self._clock.now()), status=200 if is_certain else 202)

    async def redrive(self, request: web.Request) -> web.Response:
        return _moved(await self._changes.redrive(caller_of(request).project, request.match_info["id"]))


def _moved(task: StoredTask) -> web.Response:
    return json_response(task_view(task, task.due_at))
