"""Finds the task that a path names, also one whose 201 or whose command is milliseconds ahead of the history."""

import asyncio
from collections.abc import Callable
from uuid import UUID

from services.ingest.problems import Problem, not_found
from services.ingest.replays import FindsTasks
from services.ingest.stored import StoredTask

# A task is projected milliseconds after its 201; a reader who is faster than that waits.
MISS_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.6, 0.65)


async def found(history: FindsTasks, project: str, text: str) -> StoredTask:
    """The project's task of this id. Raises: Problem (404) after two seconds without one."""
    id_ = task_id(text)
    task = await awaited(history, project, id_)
    if task is None:
        raise unknown_task(id_)
    return task


async def awaited(
    history: FindsTasks, project: str, id_: UUID, is_it: Callable[[StoredTask], bool] = lambda _task: True
) -> StoredTask | None:
    """The task once `is_it`; as it stands after two seconds otherwise."""
    for pause_s in MISS_PAUSES_S:
        task = await history.task(project, id_)
        if task is not None and is_it(task):
            return task
        await asyncio.sleep(pause_s)
    return await history.task(project, id_)


def task_id(text: str) -> UUID:
    """Raises: Problem (404)."""
    try:
        return UUID(text)
    except ValueError:
        raise not_found("There is no task under this id, which is no UUID") from None


def unknown_task(id_: UUID) -> Problem:
    return not_found(f"There is no task {id_}")
