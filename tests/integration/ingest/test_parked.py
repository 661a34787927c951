"""Dead letters as their project sees them, over the real table."""

from datetime import timedelta
from uuid import uuid4

import msgspec
import pytest

from libs.common.contracts import (
    CancelTask,
    CreateTask,
    Notice,
    Task,
    TaskAccepted,
    TaskDue,
    TaskFinished,
    encode,
)
from libs.common.ids import new_id
from libs.common.postgres import Postgres
from services.ingest.parking import parts
from services.ingest.store import Store
from services.ingest.store_parked import ParkedPlace, ParkedStore
from services.ingest.stored import ParkedMessage
from tests.integration.ingest.list_rows import NOW, accepted


def message(name: str, *items: bytes, body: bytes | None = None) -> ParkedMessage:
    return ParkedMessage(name, "scheduler.tasks", "crashed", 5, b"{}", body or b"[" + b",".join(items) + b"]")


def task_of(project: str) -> Task:
    return accepted(project=project).task


@pytest.fixture
def parked(postgres: Postgres) -> ParkedStore:
    return ParkedStore(postgres)


async def keep(store: Store, *messages: ParkedMessage) -> None:
    for number, each in enumerate(messages):
        for part in parts(each):
            await store.park(part, NOW + timedelta(seconds=number))


async def names(parked: ParkedStore, project: str) -> list[str]:
    return [letter.message_id for letter in await parked.page(project, None, None, 250)]


async def test_a_project_sees_its_own_and_the_bootstrap_project_what_is_nobodys(
    store: Store, parked: ParkedStore
) -> None:
    mine, theirs = encode(CreateTask(task=task_of("default"))), encode(CreateTask(task=task_of("other")))
    await keep(store, message("mine", mine), message("theirs", theirs), message("garbage", body=b"\xff"))
    assert await names(parked, "default") == ["garbage", "mine"]
    assert await names(parked, "other") == ["theirs"]
    for project, name in (("other", "mine"), ("other", "garbage"), ("default", "theirs")):
        assert await parked.show(project, name) is None
        assert not await parked.drop(project, name)
    assert await parked.drop("other", "theirs")
    assert await parked.show("other", "theirs") is None


async def test_a_message_of_many_is_taken_apart_and_each_is_its_projects(store: Store, parked: ParkedStore) -> None:
    first, second = task_of("default"), task_of("other")
    packed = message("m", encode(CreateTask(task=first)), encode(CreateTask(task=second)), b"{}")
    await keep(store, packed, packed)
    assert set(await names(parked, "default")) == {"m-0", "m-2"}
    letter = await parked.show("other", "m-1")
    assert letter is not None
    assert (letter.task_id, letter.body) == (second.id, b"[" + encode(CreateTask(task=second)) + b"]")


async def test_pages_follow_each_other_and_an_origin_can_be_asked_for(store: Store, parked: ParkedStore) -> None:
    await keep(store, *(message(str(number), b"{}")._replace(origin=f"q{number % 2}") for number in range(5)))
    first = await parked.page("default", None, None, 2)
    place = ParkedPlace(first[-1].parked_at, first[-1].message_id)
    assert [letter.message_id for letter in await parked.page("default", None, place, 250)] == ["2", "1", "0"]
    assert [letter.message_id for letter in await parked.page("default", "q1", None, 250)] == ["3", "1"]


@pytest.mark.parametrize("kind", ["create", "due", "accepted", "finished", "cancel"])
def test_whose_an_item_is_and_what_task_it_is_about(kind: str) -> None:
    task = task_of("other")
    item = {
        "create": CreateTask(task=task),
        "due": TaskDue(task=msgspec.Raw(encode(task)), due_at=NOW, emitted_at=NOW),
        "accepted": TaskAccepted(task=task),
        "finished": TaskFinished(
            id=task.id, project="other", generation=1, attempt=1, hop=1, state="expired", finished_at=NOW
        ),
        "cancel": CancelTask(id=task.id, project="other", command_id=new_id()),
    }[kind]
    [part] = parts(message("m", encode(item)))
    assert (part.project, part.task_id, part.message_id) == ("other", task.id, "m")


def test_a_notice_is_its_projects_and_about_no_task() -> None:
    notice = Notice(id=uuid4(), project="other", created_at=NOW, subject="s", message="m")
    [part] = parts(message("m", encode(notice)))
    assert (part.project, part.task_id) == ("other", None)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"[nope]", b"{}", b"[" * 9999])
def test_what_cannot_be_taken_apart_stays_as_it_is(body: bytes) -> None:
    whole = ParkedMessage("m", "q", "c", 0, b"{}", body)
    assert parts(whole) == [whole]
