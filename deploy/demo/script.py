"""The demo's tasks: what is asked for, and how each should end."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import aiohttp

# A key names a task for good, and a receiver in a container has the same address in each run.
RUN = uuid4().hex
# On a rung of the default ladder, so that the retries go through its TTL queue, to the millisecond.
SHORT_LADDER_S = [5, 5]


@dataclass
class Line:
    """One row of the table. `task` is the API's latest answer."""

    name: str
    what: str
    behaviour: str = "ok"
    delay_s: float = 0
    is_legacy: bool = False
    should_end: str = "succeeded"
    should_call: int = 1
    task_id: str = ""
    task: dict[str, Any] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.task.get("status") in ("succeeded", "failed", "cancelled", "expired", "parked")


def lines() -> list[Line]:
    return [
        Line("now-1", "at once"),
        Line("now-2", "at once"),
        Line("now-3", "at once"),
        Line("in-2s", "in 2 s", delay_s=2),
        Line("in-3s", "in 3 s", delay_s=3),
        Line("in-5s", "in 5 s", delay_s=5),
        Line("in-8s", "in 8 s", delay_s=8),
        Line("legacy", "by the legacy form, in 3 s", delay_s=3, is_legacy=True),
        Line("flaky", "fails twice, then works", behaviour="flaky", delay_s=1, should_call=3),
        Line("broken", "never works", behaviour="broken", delay_s=1, should_end="failed", should_call=3),
    ]


async def schedule(session: aiohttp.ClientSession, line: Line, receiver_url: str) -> None:
    """Ask for the line's task. Raises: RuntimeError with the answer when it was not taken."""
    url = f"{receiver_url}/{line.behaviour}/{line.name}"
    if line.is_legacy:
        plan_time = int((datetime.now(UTC) + timedelta(seconds=line.delay_s)).timestamp())
        form = {"notify_url": url, "plan_time": str(plan_time), "method_name": "post", "notify_param": "a=1&b=2"}
        async with session.post("/api/task/save", data=form) as response:
            answer = await response.json()
        if answer.get("code") != "ok":
            raise RuntimeError(f"{line.name} was not taken: {answer}")
        line.task_id = answer["id"]
        return
    body = {
        "url": url,
        "delay": line.delay_s,
        "body": {"demo": line.name},
        "labels": {"demo": line.name},
        "retry": {"schedule_s": SHORT_LADDER_S},
    }
    async with session.post("/v1/tasks", json=body, headers={"Idempotency-Key": f"demo-{RUN}-{line.name}"}) as response:
        answer = await response.json()
        if response.status != 201:
            raise RuntimeError(f"{line.name} was not taken: HTTP {response.status} {answer}")
    line.task_id = answer["id"]


async def refresh(session: aiohttp.ClientSession, line: Line) -> None:
    async with session.get(f"/v1/tasks/{line.task_id}") as response:
        if response.status == 200:
            line.task = await response.json()
