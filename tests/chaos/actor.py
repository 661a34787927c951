"""Plays the stories: asks for each task by its door, does to it what the story says, and keeps what was promised.

Whatever an answer says that no right answer could, stands in `ledger.wrong`.
"""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from redis.asyncio import Redis
from redis.exceptions import RedisError

from libs.common.clock import to_ms
from tests.chaos.aftermath import LIST
from tests.chaos.checker import Accepted
from tests.chaos.client import Answer, Client, Request, Unexpected, now_ms, posted
from tests.chaos.mix import Batch, Deed, Story
from tests.chaos.sink import STALL_TIMEOUT_S, Sink

FORM = "application/x-www-form-urlencoded"
NDJSON = "application/x-ndjson"


@dataclass(frozen=True)
class Unnamed:
    """A task whose id the answer did not name, or not of all that were made: the sink knows it by its number.

    `tries`: so many requests may each have made one. Times: of the first request, and of the answer.
    """

    number: int
    due_ms: int
    story: Story
    tries: int
    asked_ms: int
    answered_ms: int


@dataclass(frozen=True)
class Told:
    """How a request about a task was answered for good."""

    id: str
    deed: str
    asked_ms: int
    answered_ms: int
    tries: int
    status: int
    text: str

    def __str__(self) -> str:
        return f"{self.deed} {self.status}"


@dataclass
class Ledger:
    """`played` counts the stories that are at their end; `redriven` those that have failed once before."""

    accepted: dict[int, Accepted] = field(default_factory=dict)
    unnamed: list[Unnamed] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    played: int = 0
    redriven: set[str] = field(default_factory=set)
    with_callbacks: set[str] = field(default_factory=set)
    told: list[Told] = field(default_factory=list)


class Actor:
    """`secrets`: planted in a header and in the body of each task."""

    def __init__(self, client: Client, sink: Sink, sink_url: str, redis: Redis, secrets: tuple[str, str]) -> None:
        self.ledger = Ledger()
        self._client = client
        self._sink = sink
        self._sink_url = sink_url
        self._redis = redis
        self._secrets = secrets

    async def play(self, story: Story) -> None:
        await self._client.until(story.post_at_s)
        try:
            match story.door:
                case "form":
                    await self._fill_in_form(story)
                case "list":
                    await self._push(story)
                case _:
                    await self._live(story, await self._create(story))
        except Unexpected as error:
            self.ledger.wrong.append(str(error))
        self.ledger.played += 1

    async def play_batch(self, batch: Batch) -> None:
        """One request, then each of its tasks by itself."""
        await self._client.until(batch.post_at_s)
        try:
            promises = await self._create_all(batch)
        except Unexpected as error:
            self.ledger.wrong.append(str(error))
            return
        await asyncio.gather(*(self._live_on(story, promise) for story, promise in promises))

    # --- doors

    async def _create(self, story: Story) -> Accepted:
        request = posted("/v1/tasks", self._body(story), self._key(story))
        asked = [self._client.insist(request, {201}, start=story.number + copy) for copy in range(story.copies)]
        answers = await asyncio.gather(*asked)
        tasks = [answer.json() for answer in answers]
        if len({task["id"] for task in tasks}) > 1:
            self.ledger.wrong.append(f"{request.key} named {[task['id'] for task in tasks]}")
        is_repeated = any(deed.name in ("again", "rival") for deed in story.deeds)
        # Another replica may not know yet that "now" has been, and the scheduler may meet its request first.
        is_certain = story.copies == 1 and answers[0].tries == 1 and not (story.is_due_now and is_repeated)
        return self._promise(story, tasks[0], is_certain, min(answer.asked_ms for answer in answers))

    async def _create_all(self, batch: Batch) -> list[tuple[Story, Accepted]]:
        bodies = [self._body(story) for story in batch.stories]
        key = f"{self._client.run}-batch-{batch.number}"
        if batch.is_ndjson:
            lines = "".join(json.dumps(body) + "\n" for body in bodies).encode()
            request = Request("POST", "/v1/tasks/batch", lines, key, NDJSON)
        else:
            request = posted("/v1/tasks/batch", {"tasks": bodies}, key)
        answer = await self._client.insist(request, {200}, _is_incomplete)
        results = answer.json()["results"]
        if [result["status"] for result in results] != [201] * len(bodies):
            raise Unexpected(f"{key}: {answer.text[:500]}")
        return [
            (story, self._promise(story, {"id": result["id"]}, is_certain=False, asked_ms=answer.asked_ms))
            for story, result in zip(batch.stories, results, strict=True)
        ]

    async def _fill_in_form(self, story: Story) -> None:
        due_s = self._due_s(story)
        # A GET that has no answer at all may be sent again at once (RFC 9110 section 9.2.2), as the same attempt.
        method = "post" if story.number % 2 or story.behaviour == "reset" else "get"
        form = {"notify_url": self._url(story), "plan_time": due_s, "method_name": method, "notify_param": "a=1&b=2"}
        request = Request("POST", "/api/task/save", urlencode(form).encode(), None, FORM)
        answer = await self._client.insist(request, {200}, _is_no, start=story.number)
        self._note(story, 1000 * due_s, answer.tries, answer.asked_ms)

    async def _push(self, story: Story) -> None:
        """An entry of the ancestor's, or a task as in `POST /v1/tasks`. A push that was not answered may be there."""
        due_s = self._due_s(story)
        entry: Mapping[str, Any] = self._body(story) | {"due_at": due_s}
        if story.number % 2:
            entry = {"notify_url": self._url(story), "plan_time": due_s, "method_name": "post", "notify_param": "a=1"}
        tries, asked_ms = 1, now_ms()
        while True:
            try:
                await self._redis.rpush(LIST, json.dumps(entry))
                break
            except (RedisError, OSError, TimeoutError) as error:
                self._client.answers[f"RPUSH {type(error).__name__}"] += 1
                tries += 1
                await asyncio.sleep(self._client.pause_s(tries))
        self._note(story, 1000 * due_s, tries, asked_ms)

    def _note(self, story: Story, due_ms: int, tries: int, asked_ms: int) -> None:
        self.ledger.unnamed.append(Unnamed(story.number, due_ms, story, tries, asked_ms, now_ms()))

    # --- what is done to a task

    async def _live_on(self, story: Story, promise: Accepted) -> None:
        try:
            await self._live(story, promise)
        except Unexpected as error:
            self.ledger.wrong.append(str(error))
        self.ledger.played += 1

    async def _live(self, story: Story, promise: Accepted) -> None:
        self.ledger.accepted[story.number] = promise
        if story.has_callbacks:
            self.ledger.with_callbacks.add(promise.id)
        for deed in story.deeds:
            await self._client.until(deed.at_s)
            promise = await self._done(deed, story, promise)
            self.ledger.accepted[story.number] = promise

    async def _done(self, deed: Deed, story: Story, promise: Accepted) -> Accepted:
        match deed.name:
            case "cancel":
                # Until it is answered, nobody knows whether it will be called.
                self.ledger.accepted[story.number] = replace(promise, may_end=("cancelled",))
                answer = await self._client.insist(
                    Request("DELETE", f"/v1/tasks/{promise.id}"), {200, 202, 404, 409}, _is_open
                )
                self._tell("cancel", promise, answer)
                return cancelled(promise, answer)
            case "move":
                wanted = self._client.moment(deed.due_at_s)
                body = json.dumps({"due_at": wanted}).encode()
                answer = await self._client.insist(
                    Request("PATCH", f"/v1/tasks/{promise.id}", body), {200, 404, 409}, _is_unknown
                )
                self._tell("move", promise, answer)
                return moved(promise, answer, _ms(wanted))
            case "run":
                answer = await self._client.insist(
                    Request("POST", f"/v1/tasks/{promise.id}/run"), {200, 404, 409}, _is_unknown
                )
                self._tell("run", promise, answer)
                return moved(promise, answer, answer.asked_ms)
            case "redrive":
                return await self._redriven(story, promise)
            case "again" | "rival":
                return await self._repeated(story, promise, is_same=deed.name == "again")

    async def _redriven(self, story: Story, promise: Accepted) -> Accepted:
        """Once it has failed."""
        path = f"/v1/tasks/{promise.id}"
        await self._client.insist(Request("GET", path), {200, 404}, _has_not_failed)
        self.ledger.redriven.add(promise.id)
        self._sink.mend(story.number)
        answer = await self._client.insist(Request("POST", f"{path}/redrive"), {200, 404, 409}, _is_unknown)
        self._tell("redrive", promise, answer)
        # Mended for the redrive, a repeated call may have ended it before; whether that was to be is judged by itself.
        has_succeeded = any(call.is_success for call in self._sink.calls[promise.id])
        if answer.status == 409 and answer.tries == 1 and not has_succeeded:
            self.ledger.wrong.append(f"the redrive of {promise.id}, which has failed: {answer.text[:300]}")
        return replace(promise, dues_ms=())

    async def _repeated(self, story: Story, promise: Accepted, *, is_same: bool) -> Accepted:
        """The same request once more; or another one with its key, which must not become a task."""
        body = self._body(story) if is_same else self._body(story) | {"labels": {"rival": "1"}}
        request = posted("/v1/tasks", body, self._key(story))
        answer = await self._client.insist(request, {201} if is_same else {201, 422}, start=story.number + 1)
        self._tell("again" if is_same else "rival", promise, answer)
        if answer.status == 201 and answer.json()["id"] != promise.id:
            self.ledger.wrong.append(f"{request.key} named {promise.id}, and then {answer.json()['id']}")
        return repeated(promise, answer) if is_same else promise

    def _tell(self, deed: str, promise: Accepted, answer: Answer) -> None:
        text = answer.text if answer.status >= 400 else ""
        self.ledger.told.append(
            Told(promise.id, deed, answer.asked_ms, answer.answered_ms, answer.tries, answer.status, text)
        )

    # --- what is sent

    def _body(self, story: Story) -> dict[str, Any]:
        header, word = self._secrets
        body: dict[str, Any] = {
            "url": self._url(story),
            "headers": {"X-Api-Key": header, "Authorization": f"Bearer {header}"},
            "body": {"n": story.number, "password": word},
        }
        if not story.is_due_now:
            body["due_at"] = self._client.moment(story.due_at_s)
        if story.behaviour == "stall":
            body["timeout_s"] = STALL_TIMEOUT_S
        if story.schedule_s is not None:
            body["retry"] = {"schedule_s": story.schedule_s}
        if story.has_callbacks:
            url = f"{self._sink_url}/callback/{story.number}"
            body["callbacks"] = {"success": url, "failure": url}
        return body

    def _url(self, story: Story) -> str:
        return f"{self._sink_url}/{story.behaviour}/{story.number}"

    def _key(self, story: Story) -> str:
        return f"{self._client.run}-task-{story.number}"

    def _due_s(self, story: Story) -> int:
        """In whole seconds, as these doors have it."""
        return -(-_ms(self._client.moment(story.due_at_s)) // 1000)

    def _promise(self, story: Story, task: Mapping[str, Any], is_certain: bool, asked_ms: int) -> Accepted:
        """A repeated request may have been answered with a later time than the first one, unanswered, has made."""
        if is_certain:
            due_ms = _ms(task["due_at"])
            return Accepted(task["id"], due_ms, story.should_end, number=story.number, dues_ms=(due_ms,))
        due_ms = asked_ms if story.is_due_now else _ms(self._client.moment(story.due_at_s))
        return Accepted(task["id"], due_ms, story.should_end, number=story.number)


def cancelled(promise: Accepted, answer: Answer) -> Accepted:
    """What is promised after a DELETE was answered for good."""
    if answer.status == 200:
        return replace(promise, should_end="cancelled", may_end=(), cancelled_ms=answer.answered_ms)
    # One before, which nobody answered, may be heard later: it overrides a failure, never a success.
    is_heard_later = answer.tries > 1 and promise.should_end == "failed"
    return replace(promise, may_end=("cancelled",)) if is_heard_later else promise


def moved(promise: Accepted, answer: Answer, wanted_ms: int) -> Accepted:
    """What is promised after a PATCH, or a run, was answered. A request that was not may have moved it too."""
    is_certain = answer.tries == 1
    if answer.status == 200:
        due_ms = _ms(answer.json()["due_at"]) if is_certain else wanted_ms
        return replace(promise, due_ms=due_ms, dues_ms=(due_ms,) if is_certain else ())
    return promise if is_certain else replace(promise, due_ms=min(promise.due_ms, wanted_ms), dues_ms=())


def repeated(promise: Accepted, answer: Answer) -> Accepted:
    """What is promised after the same request once more. It may overtake the first, which a frozen scheduler has in
    hand, and then it is the one that is called: at the time that its own 201 named."""
    if answer.status != 201 or not promise.dues_ms:
        return promise
    return replace(promise, dues_ms=(*promise.dues_ms, _ms(answer.json()["due_at"])))


async def settled(coroutines: list[Coroutine[Any, Any, None]], within_s: float) -> int:
    """Runs them all; how many had not ended after `within_s`. Raises what one of them raises."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    done, late = await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_EXCEPTION)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    for task in done:
        task.result()
    return len(late)


def _is_incomplete(answer: Answer) -> bool:
    return any(result["status"] in (409, 503) for result in answer.json()["results"])


def _is_no(answer: Answer) -> bool:
    return bool(answer.json().get("code") != "ok")


def _has_not_failed(answer: Answer) -> bool:
    return bool(answer.json()["status"] != "failed")


def _is_unknown(answer: Answer) -> bool:
    """The history has not heard of it yet."""
    return answer.status == 404


def _is_open(answer: Answer) -> bool:
    """A call is under way, or it is not known: repeat the DELETE, as docs/changing-tasks.md says."""
    return answer.status in (202, 404) or (answer.status == 409 and answer.code != "already_final")


def _ms(moment: str) -> int:
    return to_ms(datetime.fromisoformat(moment))
