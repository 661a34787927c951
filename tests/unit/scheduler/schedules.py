"""Commands about schedules, for tests."""

from uuid import UUID

from libs.common.contracts import PutSchedule, Schedule
from libs.common.ids import new_id


def a_put(
    schedule: Schedule, name: str = "bell", *, project: str = "acme", command_id: UUID | None = None
) -> PutSchedule:
    return PutSchedule(project=project, name=name, command_id=command_id or new_id(), schedule=schedule)
