"""The real application behind a real HTTP server, with a fake broker and a fake history."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import pytest
from aiohttp.test_utils import TestClient
from aiohttp.web import Application, Request
from pytest_aiohttp.plugin import AiohttpClient

from libs.common.clock import SystemClock
from libs.common.contracts import AnyMessage, CreateTask
from libs.common.egress import EgressRules
from libs.common.publisher import NotPublished
from libs.common.topology import Route
from services.ingest.auth import Keys
from services.ingest.batch import Rules
from services.ingest.batch_door import BatchDoor
from services.ingest.command_door import CommandDoor
from services.ingest.commands import Commands
from services.ingest.explain_door import ExplainDoor
from services.ingest.fallback_door import FallbackDoor
from services.ingest.http import build_app
from services.ingest.legacy import LegacyRules
from services.ingest.legacy_door import LegacyDoor
from services.ingest.schedule_door import ScheduleDoor
from services.ingest.stored import StoredAttempt, StoredTask
from services.ingest.task_commands import TaskCommands
from services.ingest.task_door import TaskDoor
from tests.http.services import FakeServices, FakeTargets

KEY = "a-key-of-enough-length"
BODY_BYTES_MAX = 4096

Client = TestClient[Request, Application]
_decoder: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)


@dataclass
class FakeBroker:
    """Confirms at once, unless `confirm` is a future that a test releases. `failures`: of a batch, by number.

    `error`: what everything that is published alone meets.
    """

    published: list[tuple[Route, AnyMessage]] = field(default_factory=list)
    confirm: asyncio.Future[None] | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    failures: dict[int, NotPublished] = field(default_factory=dict)
    error: NotPublished | None = None

    async def publish_alone(self, route: Route, item: bytes, headers: Mapping[str, str | int]) -> None:
        if self.error is not None:
            raise self.error
        self.published.append((route, _decoder.decode(item)))

    async def publish(self, route: Route, item: bytes) -> None:
        self.published.append((route, _decoder.decode(item)))
        self.asked.set()
        if self.confirm is not None:
            await self.confirm

    async def publish_many(self, route: Route, items: Sequence[bytes]) -> list[NotPublished | None]:
        self.published += [(route, _decoder.decode(item)) for item in items]
        self.asked.set()
        if self.confirm is not None:
            await self.confirm
        return [self.failures.get(len(self.published) - len(items) + number) for number in range(len(items))]

    @property
    def created(self) -> CreateTask:
        [(_route, message)] = self.published
        assert isinstance(message, CreateTask)
        return message


@dataclass
class FakeHistory:
    """Knows what a test put in; raises `error` when there is one."""

    tasks: dict[UUID, StoredTask] = field(default_factory=dict)
    calls: dict[UUID, list[StoredAttempt]] = field(default_factory=dict)
    error: Exception | None = None
    missed: asyncio.Event = field(default_factory=asyncio.Event)

    async def task(self, project: str, id_: UUID) -> StoredTask | None:
        if self.error is not None:
            raise self.error
        task = self.tasks.get(id_)
        if task is not None and task.project == project:
            return task
        self.missed.set()
        return None

    async def fingerprints(self, project: str, ids: Sequence[UUID]) -> dict[UUID, str]:
        found = [await self.task(project, id_) for id_ in ids]
        return {task.id: task.fingerprint for task in found if task is not None}

    async def attempts(self, id_: UUID) -> list[StoredAttempt]:
        return self.calls.get(id_, [])


@pytest.fixture
def broker() -> FakeBroker:
    return FakeBroker()


@pytest.fixture
def history() -> FakeHistory:
    return FakeHistory()


@pytest.fixture
def body_bytes_max() -> int:
    return BODY_BYTES_MAX


@pytest.fixture
def legacy_rules() -> LegacyRules:
    return LegacyRules("default", 10, is_json_success=False)


@pytest.fixture
def egress() -> EgressRules:
    return EgressRules()


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def targets() -> FakeTargets:
    return FakeTargets()


@pytest.fixture
async def anonymous(
    aiohttp_client: AiohttpClient,
    broker: FakeBroker,
    history: FakeHistory,
    legacy_rules: LegacyRules,
    egress: EgressRules,
    services: FakeServices,
    targets: FakeTargets,
    body_bytes_max: int,
) -> Client:
    """A client without a key."""
    keys, clock = Keys(KEY), SystemClock()
    commands = Commands(services)
    doors = (
        TaskDoor(broker, history, clock, egress),
        BatchDoor(broker, history, clock, Rules(egress, body_bytes_max)),
        CommandDoor(TaskCommands(commands, broker, history, clock), history, clock),
        ScheduleDoor(commands, clock, egress),
        ExplainDoor(history, targets, clock),
        LegacyDoor(keys, broker, clock, legacy_rules, egress),
        FallbackDoor(broker, clock),
    )
    return await aiohttp_client(build_app(doors, keys, version="1.2.3", body_bytes_max=body_bytes_max))


@pytest.fixture
async def client(anonymous: Client) -> Client:
    """A client that sends the key with every request."""
    anonymous.session.headers["Authorization"] = f"Bearer {KEY}"
    return anonymous
