"""What a command for many asks of the single ones, and how it reads their answers."""

from typing import Any, NamedTuple, cast
from uuid import UUID, uuid4

import pytest

from services.ingest.bulk import BY_DEFAULT, OF_ACTION, actions
from services.ingest.projection import FINAL
from services.ingest.store_bulk import Action
from services.ingest.store_purge import PurgeStore
from services.ingest.task_commands import REDRIVABLE, TaskCommands

ID = uuid4()


class Answer(NamedTuple):
    result: str


class FakeCommands:
    def __init__(self, result: str) -> None:
        self._result = result

    async def cancel(self, _project: str, _id: UUID) -> Answer:
        return Answer(self._result)

    async def redrive(self, _project: str, _id: UUID) -> Answer:
        return Answer(self._result)

    async def purge(self, _project: str, ids: list[UUID]) -> dict[UUID, str]:
        return dict.fromkeys(ids, self._result)


@pytest.mark.parametrize(
    ("action", "result", "outcome"),
    [
        ("cancel", "cancelled", "done"),
        ("cancel", "in_flight", "done"),
        ("cancel", "ended", "left_alone"),
        ("cancel", "superseded", "left_alone"),
        ("cancel", "no_such_task", "left_alone"),
        ("cancel", "not_known", "unknown"),
        ("redrive", "redriven", "done"),
        ("redrive", "not_failed", "left_alone"),
        ("redrive", "payload_gone", "left_alone"),
        ("redrive", "no_such_task", "left_alone"),
        ("purge", "purged", "done"),
        ("purge", "waiting", "left_alone"),
        ("purge", "unknown", "left_alone"),
    ],
)
async def test_an_answer_is_done_or_left_alone_or_unknown(action: Action, result: str, outcome: str) -> None:
    fake: Any = FakeCommands(result)
    command = actions(cast("TaskCommands", fake), cast("PurgeStore", fake))[action]
    assert await command("default", ID) == outcome


def test_each_action_is_for_the_states_that_the_single_command_takes() -> None:
    assert set(OF_ACTION["redrive"]) == REDRIVABLE
    assert set(OF_ACTION["purge"]) == FINAL
    assert not FINAL & set(OF_ACTION["cancel"])
    assert all(set(BY_DEFAULT[action]) <= set(OF_ACTION[action]) for action in OF_ACTION)
