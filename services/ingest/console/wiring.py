"""Every page of the console with what it needs."""

from dataclasses import dataclass

from aiohttp import web
from redis.asyncio import Redis

from libs.common.clock import Clock
from libs.common.lifecycle import Worker
from libs.common.postgres import Postgres
from libs.common.publisher import Publisher
from services.ingest.bulk_command import BulkCommands
from services.ingest.clearing import ClearingWorker
from services.ingest.commands import Commands
from services.ingest.console.account import AccountPages
from services.ingest.console.address import TrustedProxies
from services.ingest.console.app import add_console
from services.ingest.console.audit import AuditPages
from services.ingest.console.bulk_pages import BulkPages
from services.ingest.console.dead_letters import DeadLetterPages
from services.ingest.console.digest import DigestPages
from services.ingest.console.guard import Cookie, Guard
from services.ingest.console.keeping import Keeping
from services.ingest.console.keys import KeyPages
from services.ingest.console.links import LinkPages
from services.ingest.console.live import Live
from services.ingest.console.login import LoginPages
from services.ingest.console.overview import Overview
from services.ingest.console.page import Page, Pages
from services.ingest.console.passwords import Passwords
from services.ingest.console.project import ProjectPages
from services.ingest.console.schedule_editor import ScheduleEditor
from services.ingest.console.schedules import SchedulePages
from services.ingest.console.sessions import Sessions
from services.ingest.console.signing import SigningPages
from services.ingest.console.target_redrive import TargetRedrivePages
from services.ingest.console.targets import Stores, TargetPages
from services.ingest.console.task_new import NewTaskPages
from services.ingest.console.task_page import TaskPages
from services.ingest.console.tasks import TaskListPages
from services.ingest.console.throttle import Throttle
from services.ingest.console.users import UserPages
from services.ingest.creator import TaskCreator
from services.ingest.digest_desk import DigestDesk
from services.ingest.inquiry import Inquiry
from services.ingest.keyring import Keyring
from services.ingest.schedule_commands import ScheduleCommands
from services.ingest.settings import IngestSettings
from services.ingest.signing_secrets import SigningSecrets
from services.ingest.store import Store
from services.ingest.store_attempts import AttemptStore
from services.ingest.store_audit import AuditStore
from services.ingest.store_bulk import BulkStore
from services.ingest.store_calls import CallStore
from services.ingest.store_control import ControlStore
from services.ingest.store_dead_letters import ClearingStore, DeadLetterStore
from services.ingest.store_digest import DigestStore
from services.ingest.store_keys import KeyStore
from services.ingest.store_lists import Lists
from services.ingest.store_obstacles import ObstacleStore
from services.ingest.store_occurrences import OccurrenceStore
from services.ingest.store_overview import OverviewStore
from services.ingest.store_purge import PurgeStore
from services.ingest.store_replicas import ReplicaStore
from services.ingest.store_targets import TargetStore
from services.ingest.store_users import UserStore
from services.ingest.target_rules import TargetRules
from services.ingest.task_changes import TaskChanges
from services.ingest.task_commands import TaskCommands

_LOCAL = "http://localhost:8080"
"""Where ingest is reached by who has not said where."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What ingest is made of, as far as pages need it."""

    postgres: Postgres
    redis: Redis
    publisher: Publisher
    commands: Commands
    clock: Clock
    settings: IngestSettings


class Console:
    """`workers` are to be run beside the HTTP server."""

    def __init__(self, parts: Parts) -> None:
        users = UserStore(parts.postgres)
        sessions = Sessions(parts.redis, parts.clock)
        url = parts.settings.public_url or ""
        proxies = TrustedProxies(parts.settings.trusted_proxies)
        cookie = Cookie(is_secure=not url.startswith("http://"))
        audit = AuditStore(parts.postgres)
        self.guard = Guard(sessions, users, audit, parts.clock, cookie, proxies)
        passwords, throttle = Passwords(), Throttle(parts.redis)
        overview_store = OverviewStore(parts.postgres)
        replicas, calls = ReplicaStore(parts.postgres), CallStore(parts.postgres)
        overview = Overview(overview_store, calls, replicas, parts.clock)
        live = Live(self.guard, overview_store, overview)
        keeping = Keeping(users, audit, parts.clock, url=url or _LOCAL, retention_days=parts.settings.retention_days)
        self.workers: list[Worker] = [live, keeping, ClearingWorker(ClearingStore(parts.postgres), parts.publisher)]
        rooms: list[Pages] = [
            overview,
            live,
            ProjectPages(sessions),
            LoginPages(self.guard, users, passwords, throttle, parts.clock),
            AccountPages(self.guard, users, passwords, throttle, parts.clock),
            LinkPages(self.guard, users, passwords, parts.clock),
            UserPages(users, parts.clock, parts.settings.public_url),
            KeyPages(Keyring(KeyStore(parts.postgres), parts.clock), parts.clock),
            AuditPages(audit, parts.clock),
            *_task_list_pages(parts),
            _task_pages(parts),
            _new_task_pages(parts),
            *_schedule_rooms(parts),
            *_target_rooms(parts),
        ]
        self.pages: list[Page] = [page for room in rooms for page in room.pages()]

    def add_to(self, app: web.Application) -> None:
        add_console(app, self.pages, self.guard)


def _task_list_pages(parts: Parts) -> list[Pages]:
    lists, bulks = Lists(parts.postgres), BulkStore(parts.postgres)
    commands = BulkCommands(bulks, lists, parts.clock)
    return [TaskListPages(lists, parts.clock), BulkPages(bulks, commands, parts.clock)]


def _task_pages(parts: Parts) -> TaskPages:
    store = Store(parts.postgres)
    tasks = TaskCommands(parts.commands, parts.publisher, store, parts.clock)
    return TaskPages(
        store,
        AttemptStore(parts.postgres),
        Inquiry(ObstacleStore(parts.postgres), parts.clock),
        TaskChanges(tasks, store, parts.clock),
        PurgeStore(parts.postgres),
        parts.clock,
        parts.settings.public_url,
    )


def _schedule_rooms(parts: Parts) -> list[Pages]:
    schedules, clock = ScheduleCommands(parts.commands), parts.clock
    return [
        SchedulePages(schedules, OccurrenceStore(parts.postgres), clock),
        ScheduleEditor(schedules, clock, parts.settings.egress()),
    ]


def _target_rooms(parts: Parts) -> list[Pages]:
    """Targets, the signing secret, dead letters, the digest."""
    postgres, commands, clock = parts.postgres, parts.commands, parts.clock
    control, master_key = ControlStore(postgres), parts.settings.signing_master_key
    read = Stores(CallStore(postgres), control, TargetStore(postgres), KeyStore(postgres))
    bulks = BulkCommands(BulkStore(postgres), Lists(postgres), clock)
    secrets = SigningSecrets(control, commands, clock, master_key.get_secret_value() if master_key else None)
    return [
        TargetPages(read, TargetRules(control, commands, clock), clock),
        TargetRedrivePages(bulks, clock),
        SigningPages(secrets),
        DeadLetterPages(DeadLetterStore(postgres), ClearingStore(postgres), parts.publisher, clock),
        DigestPages(DigestDesk(commands, DigestStore(postgres), clock)),
    ]


def _new_task_pages(parts: Parts) -> NewTaskPages:
    store, egress = Store(parts.postgres), parts.settings.egress()
    creator = TaskCreator(parts.publisher, store, egress)
    return NewTaskPages(creator, store, parts.clock, egress, parts.settings.body_bytes_max)
