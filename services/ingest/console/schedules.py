"""/console/schedules: all of a project's, and one with what comes, what came of it, and what can be done to it."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import structlog
from aiohttp import web

from libs.common.clock import Clock
from libs.common.contracts import HeldSchedule
from libs.common.ids import derived_id, new_id
from libs.common.publisher import NotPublished
from services.ingest.console.forms import back, field_of
from services.ingest.console.guard import audit_note
from services.ingest.console.page import Page, visitor_of
from services.ingest.console.render import render
from services.ingest.console.schedule_sheet import FIRES, Line, history_of, known_line, line, marks, path_of, sheet
from services.ingest.problems import Problem, problem_of
from services.ingest.schedule_commands import NAME, ScheduleCommands, Standing, checked
from services.ingest.store_occurrences import Occurred, OccurrenceStore

LIMIT = 25
MARKS = 10

log = structlog.get_logger(__name__)


class SchedulePages:
    def __init__(self, schedules: ScheduleCommands, occurrences: OccurrenceStore, clock: Clock) -> None:
        self._schedules = schedules
        self._occurrences = occurrences
        self._clock = clock

    def pages(self) -> list[Page]:
        one = "/schedules/{name}"
        return [
            Page(method="GET", path="/schedules", handler=self.listed, role="viewer"),
            Page(method="GET", path=one, handler=self.show, role="viewer"),
            Page(method="POST", path=f"{one}/pause", handler=self.pause, role="operator", action="schedule.pause"),
            Page(method="POST", path=f"{one}/resume", handler=self.resume, role="operator", action="schedule.resume"),
            Page(method="POST", path=f"{one}/run", handler=self.run, role="operator", action="schedule.run"),
            Page(method="GET", path=f"{one}/delete", handler=self.ask_delete, role="operator"),
            Page(method="POST", path=f"{one}/delete", handler=self.delete, role="operator", action="schedule.delete"),
        ]

    async def listed(self, request: web.Request) -> web.StreamResponse:
        project, after = visitor_of(request).project, request.query.get("after", "")
        after = after if NAME.fullmatch(after) else ""
        away = ""
        try:
            held = await self._schedules.listed(project, after=after, limit=LIMIT + 1, with_times=True)
            lines = await self._lines(project, held)
        except (Problem, NotPublished) as error:
            away = _away(error)
            names = await self._occurrences.names(project, after, LIMIT + 1)
            latest = await self._occurrences.latest(project, names, MARKS)
            lines = [known_line(name, latest[name]) for name in names]
        return await render(
            request,
            "schedules.html",
            status=503 if away else 200,
            lines=lines[:LIMIT],
            next=lines[LIMIT - 1].name if len(lines) > LIMIT else None,
            after=after,
            away=away,
        )

    async def show(self, request: web.Request) -> web.StreamResponse:
        name = _name(request)
        try:
            standing = await self._standing(request)
        except (Problem, NotPublished) as error:
            return await self._known(request, name, _away(error))
        occurred = await self._latest(request, name)
        shown = sheet(standing.held, standing.schedule, occurred, self._clock.now())
        return await render(request, "schedule.html", sheet=shown, once=str(new_id()), count=FIRES)

    async def pause(self, request: web.Request) -> web.StreamResponse:
        async def pause(project: str, name: str) -> str:
            await self._schedules.pause(project, name)
            return "Paused: it makes no more tasks until it is resumed."

        return await self._carried_out(request, pause)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        async def resume(project: str, name: str) -> str:
            await self._schedules.resume(project, name)
            return "Resumed: it goes on with its next time. What the pause has missed is not made up for."

        return await self._carried_out(request, resume)

    async def run(self, request: web.Request) -> web.StreamResponse:
        """The page that was looked at makes one task, however often its button is pressed."""

        async def run(project: str, name: str) -> str:
            command_id = derived_id(project, _once(request), "run", name)
            task_id = await self._schedules.run(project, name, command_id)
            audit_note(request, task_id=str(task_id))
            return f"Its task {task_id} is made, and called now."

        return await self._carried_out(request, run)

    async def ask_delete(self, request: web.Request) -> web.StreamResponse:
        return await render(request, "schedule_delete.html", held=(await self._standing(request)).held)

    async def delete(self, request: web.Request) -> web.StreamResponse:
        async def delete(project: str, name: str) -> str:
            await self._schedules.delete(project, name)
            return f"Deleted: {name} makes no more tasks. What it has called stays in the history."

        return await self._carried_out(request, delete, to="/schedules")

    async def _carried_out(
        self, request: web.Request, command: Callable[[str, str], Awaitable[str]], to: str | None = None
    ) -> web.StreamResponse:
        """To the page that tells what came of it."""
        project, name = visitor_of(request).project, _name(request)
        note = audit_note(request, name)
        try:
            told = await command(project, name)
        except (Problem, NotPublished) as error:
            problem = problem_of(error)
            assert problem is not None
            if problem.status == 404:
                raise _not_here(request, name) from error
            note.outcome = problem.code
            return await back(request, path_of(name), told=in_words(problem), kind="failed")
        log.info("schedule.changed", schedule=name, path=request.path)
        return await back(request, to or path_of(name), told=told)

    async def _lines(self, project: str, held: Sequence[HeldSchedule]) -> list[Line]:
        latest = await self._occurrences.latest(project, [each.name for each in held], MARKS)
        now = self._clock.now()
        return [line(each, latest[each.name], now) for each in held]

    async def _standing(self, request: web.Request) -> Standing:
        """Raises: Problem, NotPublished."""
        name = _name(request)
        try:
            return await self._schedules.show(visitor_of(request).project, name)
        except Problem as problem:
            raise (_not_here(request, name) if problem.status == 404 else problem) from problem

    async def _latest(self, request: web.Request, name: str) -> list[Occurred]:
        return (await self._occurrences.latest(visitor_of(request).project, [name], MARKS))[name]

    async def _known(self, request: web.Request, name: str, away: str) -> web.StreamResponse:
        """While the scheduler does not answer: what the history tells."""
        occurred = await self._latest(request, name)
        return await render(
            request,
            "schedule_away.html",
            status=503,
            name=name,
            away=away,
            marks=marks(occurred),
            occurred=list(reversed(occurred)),
            history=history_of(name),
        )


def in_words(problem: Problem) -> str:
    """Of a button, which has no Idempotency-Key to repeat."""
    if problem.code == "not_confirmed":
        return "The message broker did not confirm in time. It may still be done: do it again, that does it once."
    errors = "; ".join(error.detail for error in problem.errors)
    return f"{problem.detail} {errors}".strip()


def _away(error: Problem | NotPublished) -> str:
    """Why nothing is known of a schedule now. Raises what is no such reason."""
    problem = problem_of(error)
    if problem is None or problem.status != 503:
        raise error
    if problem.code == "not_confirmed":
        return "The message broker does not answer, and only the scheduler, behind it, knows how schedules stand."
    return "The scheduler does not answer, and only it knows how schedules stand."


def _name(request: web.Request) -> str:
    name = request.match_info["name"]
    try:
        return checked(name)
    except Problem as problem:
        raise _not_here(request, name) from problem


def _not_here(request: web.Request, name: str) -> Problem:
    project = visitor_of(request).project
    return Problem(404, "not_found", f"There is no schedule {name[:128]!r} in the project {project}.")


def _once(request: web.Request) -> str:
    try:
        return str(UUID(field_of(request, "once")))
    except ValueError:
        return str(new_id())
