"""Plays the plots: makes schedules, changes, pauses, resumes, runs and deletes them, and keeps when each was so."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.checker import Accepted
from tests.chaos.client import Answer, Client, Request, Unexpected, posted
from tests.chaos.mix import Plot, ScheduleStep
from tests.chaos.occurrences import Change

REVISIONS_MAX = 100
_STATUS = {"pause": "paused", "resume": "active"}


@dataclass
class Timetable:
    """`changes` of each schedule, in their order; `runs`: tasks made beside the schedule's own times."""

    changes: defaultdict[int, list[Change]] = field(default_factory=lambda: defaultdict(list))
    runs: list[Accepted] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    played: int = 0


class Calendar:
    """`sink_url`/occurrence/<n> is what they call, with another n for each revision."""

    def __init__(self, client: Client, sink_url: str) -> None:
        self.timetable = Timetable()
        self._client = client
        self._sink_url = sink_url

    async def play(self, plot: Plot) -> None:
        try:
            for number, step in enumerate(plot.steps):
                await self._client.until(step.at_s)
                await self._take(plot.number, number, step)
        except Unexpected as error:
            self.timetable.wrong.append(str(error))
        self.timetable.played += 1

    async def end(self, plot: Plot) -> None:
        """No occurrence any more."""
        request = Request("DELETE", _path(plot.number, self._client.run))
        answer = await self._client.insist(request, {204, 404})
        if answer.status == 404 and answer.tries == 1:
            self.timetable.wrong.append(f"{request.path}, which is there, could not be deleted: {answer.text}")
        self._changed(plot.number, answer)

    async def _take(self, plot: int, number: int, step: ScheduleStep) -> None:
        path = _path(plot, self._client.run)
        match step.act:
            case "put":
                await self._put(plot, plot * REVISIONS_MAX + number, step)
            case "run":
                request = Request("POST", f"{path}/run", None, f"{self._client.run}-run-{plot}-{number}")
                answer = await self._client.insist(request, {201})
                # Due now, by a clock of the stack's: no call can come before it was asked for.
                self.timetable.runs.append(Accepted(answer.json()["task_id"], answer.asked_ms))
            case "pause" | "resume" as act:
                answer = await self._client.insist(
                    Request("POST", f"{path}/{act}"), {200}, lambda answer: _is_not(answer, status=_STATUS[act])
                )
                self._changed(plot, answer, resumed=act == "resume")

    async def _put(self, plot: int, number: int, step: ScheduleStep) -> None:
        url = f"{self._sink_url}/occurrence/{number}"
        times = {"cron": f"*/{step.every_s} * * * * *"} if step.is_cron else {"every": step.every_s, "start_at": 0}
        body = times | {"catch_up": "all", "task": {"url": url, "body": {"schedule": plot}}}
        request = posted(_path(plot, self._client.run), body, None)
        answer = await self._client.insist(
            Request("PUT", request.path, request.data), {200, 201}, lambda answer: _url_of(answer) != url
        )
        change = Change(answer.asked_ms, answer.answered_ms, number, 1000 * step.every_s)
        self.timetable.changes[plot].append(change)

    def _changed(self, plot: int, answer: Answer, *, resumed: bool = False) -> None:
        number, every_ms = None, 1
        if resumed:
            [*_, last] = [change for change in self.timetable.changes[plot] if change.number is not None]
            number, every_ms = last.number, last.every_ms
        self.timetable.changes[plot].append(Change(answer.asked_ms, answer.answered_ms, number, every_ms))


def _path(plot: int, run: str) -> str:
    return f"/v1/schedules/{run}-{plot}"


def _is_not(answer: Answer, **wanted: Any) -> bool:
    """By a clock that is ahead, another command was the newer one: it has changed nothing, and is repeated."""
    told = answer.json()
    return any(told[name] != value for name, value in wanted.items())


def _url_of(answer: Answer) -> Any:
    return answer.json()["task"]["url"]
