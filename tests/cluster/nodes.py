"""The RabbitMQ cluster of a compose project: who leads a queue, is it whole, the death of nodes."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.compose.docker import CommandFailed
from tests.compose.project import Project

NODES = ("rabbitmq", "rabbitmq2", "rabbitmq3")
WHOLE_WITHIN_S = 120.0
LOOK_AGAIN_S = 0.5


class NotWhole(Exception):
    """The cluster does not become whole again."""


@dataclass(frozen=True)
class QueueState:
    """`leader` and `online` are names of nodes; `online` hold a copy and can be reached."""

    name: str
    leader: str
    online: frozenset[str]


class Cluster:
    """All of it blocks: call it in a thread."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def queues(self, through: str) -> list[QueueState]:
        """Every queue, asked of one node. Raises: CommandFailed."""
        told = self._project.compose(
            "exec", "--no-TTY", "--user", "rabbitmq", through,
            "rabbitmqctl", "--silent", "--formatter", "json", "list_queues", "--vhost", "carillon",
            "name", "leader", "online",
        )  # fmt: skip
        return [QueueState(each["name"], _host(each["leader"]), _hosts(each["online"])) for each in json.loads(told)]

    def leader_of(self, queue: str) -> str:
        [leader] = [each.leader for each in self.queues(NODES[0]) if each.name == queue]
        return leader

    def leaders(self) -> dict[str, int]:
        """How many queues each node leads."""
        return dict(sorted(Counter(each.leader for each in self.queues(NODES[0])).items()))

    def kill(self, nodes: Sequence[str]) -> None:
        """SIGKILL; the engine leaves what was killed so where it is."""
        self._project.compose("kill", *nodes)

    def start(self, nodes: Sequence[str]) -> None:
        self._project.compose("start", *nodes)

    async def whole(self) -> float:
        """Until every queue has a copy on every node, caught up or catching up; gives the seconds. Raises: NotWhole."""
        began, why = time.monotonic(), "no answer"
        while time.monotonic() - began < WHOLE_WITHIN_S:
            try:
                lacking = [each.name for each in await asyncio.to_thread(self.queues, NODES[0]) if len(each.online) < 3]
            except CommandFailed as error:
                lacking, why = ["all"], str(error)[-300:]
            else:
                why = f"fewer than three copies of {', '.join(lacking)}"
            if not lacking:
                return time.monotonic() - began
            await asyncio.sleep(LOOK_AGAIN_S)
        raise NotWhole(f"not within {WHOLE_WITHIN_S:.0f} s: {why}")


def _hosts(nodes: Sequence[str]) -> frozenset[str]:
    return frozenset(_host(node) for node in nodes)


def _host(node: str) -> str:
    return node.partition("@")[2]
