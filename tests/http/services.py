"""The scheduler and the dispatcher as ingest sees them: who answers commands, or does not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from libs.common.asking import ANSWER_S
from libs.common.contracts import Answer, CancelAnswer, TaskAnswer
from libs.common.publisher import NotPublished
from libs.common.topology import Route
from services.ingest.explanation import OpenBreaker, Rule

Say = Callable[[Any], Answer | None]


@dataclass
class FakeServices:
    """Answers each command with the next of `says`; None is silence. A NotPublished among them is raised."""

    says: list[Say | NotPublished] = field(default_factory=list)
    asked: list[tuple[Route, Any]] = field(default_factory=list)
    patience_s: list[float] = field(default_factory=list)

    async def ask(self, route: Route, command: msgspec.Struct, *, timeout_s: float = ANSWER_S) -> Answer | None:
        self.asked.append((route, command))
        self.patience_s.append(timeout_s)
        say = self.says.pop(0)
        if isinstance(say, NotPublished):
            raise say
        return say(command)

    @property
    def commands(self) -> list[Any]:
        return [command for _route, command in self.asked]


@dataclass
class FakeTargets:
    rule: Rule | None = None
    breakers: list[OpenBreaker] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def obstacles(self, project: str, host: str) -> tuple[Rule | None, list[OpenBreaker]]:
        self.asked.append((project, host))
        return self.rule, self.breakers


def nothing(_command: object) -> None:
    """No answer in time."""


def scheduler(result: str, **fields: Any) -> Say:
    return lambda command: TaskAnswer(command_id=command.command_id, id=command.id, result=result, **fields)  # type: ignore[arg-type]


def dispatcher(result: str) -> Say:
    return lambda command: CancelAnswer(command_id=command.command_id, id=command.id, result=result)  # type: ignore[arg-type]
