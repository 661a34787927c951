"""A fault as planned, and what came of it: the words that plan, engine and checker share. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal[
    "kill",
    "freeze",
    "restart",
    "clock",
    "alarm",
    "full",
    "missing",
    "flush",
    "latency",
    "reset",
    "slice",
    "half_open",
    "limit_data",
    "refuse",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, in seconds since the run began."""

    at_s: float
    kind: Kind
    target: str
    """A process (`scheduler-1`, `rabbitmq`), or a link by both its ends (`scheduler-1>rabbitmq`)."""
    for_s: float
    """How long; of a death, how long it is expected to take until the victim serves again."""
    parameters: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def end_s(self) -> float:
        return self.at_s + self.for_s

    @property
    def process(self) -> str:
        """Of a link: the service at its end."""
        return self.target.partition(">")[0]

    @property
    def server(self) -> str:
        """Of a link: the server at its end; else nothing."""
        return self.target.partition(">")[2]

    def __str__(self) -> str:
        told = "".join(f" {name} {value}" for name, value in self.parameters.items())
        return f"{self.kind} {self.target}{told}"


@dataclass(frozen=True)
class Done:
    """`ended_ms`: since 1970, when it was healed and its target served again."""

    fault: Fault
    began_ms: int
    ended_ms: int
    note: str = ""
