import asyncio
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from services.ingest.replays import Replays
from services.ingest.stored import StoredTask

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
ID = UUID(int=1)
TASK = StoredTask(ID, "default", NOW, NOW, None, "f", {}, msgspec.Raw(b"{}"))


class SlowHistory:
    """Answers when `answer` is set."""

    def __init__(self) -> None:
        self.answer = asyncio.Event()
        self.asked = 0

    async def task(self, _project: str, _id: UUID) -> StoredTask | None:
        self.asked += 1
        await self.answer.wait()
        return TASK


async def test_a_history_that_answers_gives_the_earlier_task() -> None:
    history = SlowHistory()
    history.answer.set()
    assert await Replays(history).earlier("default", ID) == TASK


async def test_a_silent_history_delays_one_create_and_no_more_until_it_answers() -> None:
    history = SlowHistory()
    replays = Replays(history, lookup_s=0.01)
    assert await replays.earlier("default", ID) is None
    assert await replays.earlier("default", ID) is None
    assert history.asked == 1

    history.answer.set()
    async with asyncio.timeout(1):
        while await replays.earlier("default", ID) is None:  # noqa: ASYNC110 - the late one tells nobody when it ends
            await asyncio.sleep(0)
    assert history.asked == 2
