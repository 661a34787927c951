"""What is called: answers as a task's script says, and keeps who called when."""

import asyncio
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from services.dispatcher.caller import Request
from services.dispatcher.outcome import Answer
from tests.simulation.world import Life, Time

Step = Literal["200", "503", "410", "timeout", "slow 200", "long 200"]
TIMEOUT_S = 3.0
# The last is longer than a claim lives that nobody renews.
TAKES_S: dict[Step, float] = {
    "200": 0.01, "503": 0.01, "410": 0.01, "timeout": TIMEOUT_S, "slow 200": 1.5, "long 200": 20.0,
}  # fmt: skip


class Made(NamedTuple):
    """One call. `is_answered`: its dispatcher lived to hear."""

    id: UUID
    attempt: int
    began_at: datetime
    began_s: float
    ended_s: float
    step: Step
    is_answered: bool
    by: str


class Target:
    """`scripts`: what each attempt of a task meets; the last step goes on for ever."""

    def __init__(self) -> None:
        self.scripts: dict[UUID, tuple[Step, ...]] = {}
        self.calls: list[Made] = []
        self.time = Time()


class SimCaller:
    def __init__(self, target: Target, life: Life, clock: Time) -> None:
        self._target = target
        self._life = life
        self._clock = clock

    async def call(self, request: Request) -> Answer:
        headers = dict(request.headers)
        id_, attempt = UUID(headers["Idempotency-Key"]), int(headers["Carillon-Attempt"].partition("/")[0])
        script = self._target.scripts[id_]
        step = script[min(attempt, len(script)) - 1]
        self._life.check()
        began_at, began_s = self._target.time.now(), self._target.time.monotonic()
        started_at, is_answered = self._clock.now(), False
        try:
            await asyncio.sleep(TAKES_S[step])
            is_answered = not self._life.is_over
        finally:
            ended_s = self._target.time.monotonic()
            made = Made(id_, attempt, began_at, began_s, ended_s, step, is_answered, self._life.name)
            self._target.calls.append(made)
        ms = round(TAKES_S[step] * 1000)
        if step == "timeout":
            return Answer(started_at=started_at, duration_ms=ms, error="timeout", error_detail="a simulation")
        return Answer(started_at=started_at, duration_ms=ms, status_code=int(step.rpartition(" ")[2]))
