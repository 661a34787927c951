"""Lists against a real PostgreSQL: what a filter lets through, in which order, page by page."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.history_rows import fill
from benchmarks.lists import watched
from deploy.setup import migrate, migrations
from libs.common.connection import Link
from libs.common.host import host_of
from libs.common.postgres import Postgres, postgres_pool
from libs.common.publisher import Publisher
from libs.common.topology import topology
from services.ingest import store_filter, store_lists
from services.ingest.cursor import NEWEST, Place
from services.ingest.history import History, history_consumer
from services.ingest.maintenance import Maintenance
from services.ingest.store_filter import Asked
from services.ingest.store_lists import ListedTask, Lists
from services.ingest.task_filter import STATUSES, Status, TaskFilter
from services.ingest.view import status
from tests.conftest import fresh_database
from tests.integration.ingest.list_rows import NOW, accepted, at, became, ids

URLS = ("https://a.example.com/x", "https://a.example.com/y/1", "https://a.example.com/y/2", "https://b.example.com/é")
OF_A = ("https://a.example.com/x", "http://a.example.com", "https://a.example.com?q=1", "https://a.example.com:8443/",
        "http://a.example.com:8443", "https://a.example.com:443?a:b@c")  # fmt: skip
NOT_OF_A = ("https://a.example.com.example.org/", "https://a.example.co/", "https://xa.example.com/",
            "https://b.example.com/https://a.example.com/", "https://a.example.com-b/")  # fmt: skip
HOSTS = ("a.example.com", "b.example.com", "a.example.com:8443", "c.example.com")
PREFIXES = (*URLS, "https://a.example.com/", "https://a.example.com/y", "https://", "https://c.example.com/")
LABELS: tuple[dict[str, str], ...] = (
    {},
    {"order": "1"},
    {"order": "2"},
    {"order": "1", "env": "prod"},
    {"env": "prod"},
)


@pytest.fixture
def lists(postgres: Postgres) -> Lists:
    return Lists(postgres)


async def everything(lists: Lists, wanted: TaskFilter, *, limit: int = 250, project: str = "default") -> list[UUID]:
    """Page after page, to the end."""
    return [listed.task.id for listed in await listed_all(lists, wanted, limit=limit, project=project)]


async def listed_all(
    lists: Lists, wanted: TaskFilter, *, limit: int = 250, project: str = "default", now: datetime = NOW
) -> list[ListedTask]:
    found: list[ListedTask] = []
    place: Place | None = NEWEST
    while place is not None:
        page, place = await lists.page(Asked(project, wanted, now), place, limit)
        assert len(page) <= limit
        found += page
    return found


def is_wanted(listed: ListedTask, wanted: TaskFilter, now: datetime) -> bool:
    """The filter as one would say it, on what a list shows without any."""
    task = listed.task
    return all((
        not wanted.status or status(task, now) in wanted.status,
        wanted.labels.items() <= task.labels.items(),
        wanted.url_prefix is None or listed.url.startswith(wanted.url_prefix),
        wanted.host is None or wanted.host in {host_of(listed.url), host_of(listed.url).partition(":")[0]},
        not wanted.ids or task.id in wanted.ids,
        wanted.due_from is None or task.due_at >= wanted.due_from,
        wanted.due_to is None or task.due_at < wanted.due_to,
        wanted.created_from is None or task.created_at >= wanted.created_from,
        wanted.created_to is None or task.created_at < wanted.created_to,
        wanted.ended_from is None or (task.finished_at is not None and task.finished_at >= wanted.ended_from),
        wanted.ended_to is None or (task.finished_at is not None and task.finished_at < wanted.ended_to),
        wanted.schedule is None or listed.schedule == wanted.schedule,
    ))  # fmt: skip


async def test_the_newest_is_first_and_of_two_made_at_once_the_greater_id(history: History, lists: Lists) -> None:
    tasks = [accepted(created=second) for second in (1, 3, 2, 3)]
    await history.handle(tasks)
    newest_first = sorted(tasks, key=lambda each: (each.task.created_at, each.task.id), reverse=True)
    assert await everything(lists, TaskFilter()) == ids(newest_first)


async def test_a_list_shows_of_a_task_what_is_known_of_it(history: History, lists: Lists) -> None:
    task = accepted(url="https://example.com/a?b=c", labels={"order": "42"}, schedule="nightly")
    await history.handle([task, *became(task, "failed", 3)])
    [listed] = await listed_all(lists, TaskFilter())
    assert (listed.url, listed.method, listed.schedule) == ("https://example.com/a?b=c", "POST", "nightly")
    assert (listed.task.state, listed.task.labels) == ("failed", {"order": "42"})
    assert listed.task.last_attempt is not None
    assert listed.task.last_attempt.status_code == 500
    assert not listed.task.has_payload


async def test_a_project_sees_its_own_tasks_only(history: History, lists: Lists) -> None:
    mine = accepted(labels={"order": "42"}, schedule="nightly")
    theirs = accepted(labels={"order": "42"}, schedule="nightly", project="other")
    await history.handle([mine, theirs, *became(mine, "failed"), *became(theirs, "failed")])
    for wanted in (
        TaskFilter(), TaskFilter(labels={"order": "42"}), TaskFilter(status=("failed",)), TaskFilter(due_from=at(0)),
        TaskFilter(url_prefix="https://"), TaskFilter(schedule="nightly"), TaskFilter(due_to=at(3600)),
    ):  # fmt: skip
        assert await everything(lists, wanted) == [mine.task.id]
        assert await everything(lists, wanted, project="other") == [theirs.task.id]


async def test_a_task_of_which_only_an_attempt_is_known_is_in_no_list(history: History, lists: Lists) -> None:
    task = accepted()
    await history.handle(became(task, "failed"))
    assert await everything(lists, TaskFilter()) == []
    assert await everything(lists, TaskFilter(status=("failed",))) == []
    await history.handle([task])
    assert await everything(lists, TaskFilter(status=("failed",))) == [task.task.id]


async def test_a_scheduled_task_whose_time_has_passed_is_due(history: History, lists: Lists) -> None:
    waiting, overdue = accepted(due=60), accepted(created=-5, due=-1)
    await history.handle([waiting, overdue])
    assert await everything(lists, TaskFilter(status=("scheduled",))) == [waiting.task.id]
    assert await everything(lists, TaskFilter(status=("due",))) == [overdue.task.id]
    assert await everything(lists, TaskFilter(status=("due", "scheduled"))) == [waiting.task.id, overdue.task.id]
    assert await everything(lists, TaskFilter(status=("delivering",))) == []


async def test_an_occurrence_that_was_caught_up_with_is_found_by_its_time(history: History, lists: Lists) -> None:
    late = accepted(created=0, due=-3600, schedule="nightly")
    prompt = accepted(created=-3600, due=-3600)
    await history.handle([late, prompt])
    for wanted in (
        TaskFilter(due_to=at(-3599)), TaskFilter(due_from=at(-3600), due_to=at(-3599)), TaskFilter(status=("due",)),
        TaskFilter(status=("due",), due_to=at(-3599)),
    ):  # fmt: skip
        assert await everything(lists, wanted) == [late.task.id, prompt.task.id]
        assert await everything(lists, wanted, limit=1) == [late.task.id, prompt.task.id]


async def test_a_label_follows_its_task(history: History, lists: Lists, postgres: Postgres) -> None:
    """An earlier accept moves it; the end of the task ends it."""
    id_ = uuid4()
    await history.handle([accepted(id_, created=5, labels={"order": "42", "a": "b"})])
    await history.handle([accepted(id_, created=1, labels={"order": "43", "a": "b"})])
    assert await everything(lists, TaskFilter(labels={"order": "42"})) == []
    assert await everything(lists, TaskFilter(labels={"order": "43", "a": "b"})) == [id_]
    async with postgres.acquire() as connection:
        rows = await connection.fetch("SELECT name, value, created_at, id FROM task_label ORDER BY 1")
        assert [tuple(row) for row in rows] == [("a", "b", at(1), id_), ("order", "43", at(1), id_)]
        await connection.execute("DELETE FROM task")
        assert await connection.fetchval("SELECT count(*) FROM task_label") == 0


async def test_retention_takes_the_labels_along(history: History, maintenance: Maintenance, postgres: Postgres) -> None:
    task = accepted(created=-40 * 86_400, due=-40 * 86_400, labels={"order": "42"})
    await history.handle([task, *became(task, "cancelled", -40 * 86_400)])
    assert await maintenance.one_pass(asyncio.Event()) == 1
    async with postgres.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM task_label") == 0


async def test_what_the_release_before_this_one_writes_is_found_too(postgres: Postgres, lists: Lists) -> None:
    id_, call = uuid4(), b'{"url":"https://old.example.com/","method":"PUT","expect_body_contains":"\\u0000"}'
    async with postgres.acquire() as connection:
        await connection.execute(
            """
            INSERT INTO task (id, project, state, state_order, state_at, reason, accepted_generation, created_at,
                              due_at, fingerprint, labels, call, last_order, last_attempt, first_order)
            VALUES ($1, 'default', 'scheduled', 1, $2, '', 1, $2, $2, 'f', '{"order": "42"}', $3, 0, 0, 0)
            """,
            id_, NOW, call,
        )  # fmt: skip
    [listed] = await listed_all(lists, TaskFilter(url_prefix="https://old.", labels={"order": "42"}))
    assert (listed.task.id, listed.url, listed.method) == (id_, "https://old.example.com/", "PUT")


async def test_a_very_long_url_is_kept_as_far_as_an_index_takes_it(history: History, lists: Lists) -> None:
    url = "https://example.com/" + "é" * 2_000
    task = accepted(url=url)
    await history.handle([task])
    [listed] = await listed_all(lists, TaskFilter(url_prefix="https://example.com/éé"))
    assert listed.url == url[:500]


async def test_a_host_is_found_by_whatever_scheme_path_or_port(history: History, lists: Lists) -> None:
    of_a, others = [accepted(url=url) for url in OF_A], [accepted(url=url) for url in NOT_OF_A]
    await history.handle([*of_a, *others])
    assert {*await everything(lists, TaskFilter(host="a.example.com"))} == {*ids(of_a)}
    assert {*await everything(lists, TaskFilter(host="a.example.com:8443"))} == {*ids(of_a[3:5])}
    assert await everything(lists, TaskFilter(host="a.example.com", url_prefix="http://a.example.com:")) == ids(
        of_a[4:5]
    )


async def test_tasks_are_found_by_their_ids_and_only_within_the_project(history: History, lists: Lists) -> None:
    mine, other, theirs = accepted(), accepted(), accepted(project="other")
    await history.handle([mine, other, theirs, *became(mine, "failed")])
    wanted = TaskFilter(ids=(mine.task.id, theirs.task.id))
    assert await everything(lists, wanted) == [mine.task.id]
    assert await everything(lists, wanted, project="other") == [theirs.task.id]
    assert await everything(lists, msgspec.structs.replace(wanted, status=("scheduled", "due"))) == []


async def test_a_walk_over_a_table_that_changes_shows_each_unchanged_task_once(history: History, lists: Lists) -> None:
    random = Random(7)
    tasks = [accepted(created=second) for second in range(300)]
    await history.handle(tasks)
    shown: list[UUID] = []
    place: Place | None = NEWEST
    touched: set[UUID] = set()
    while place is not None:
        page, place = await lists.page(Asked("default", TaskFilter(status=("scheduled",)), NOW), place, 17)
        shown += [listed.task.id for listed in page]
        changing = random.sample(tasks, 10)
        touched |= set(ids(changing))
        await history.handle([event for each in changing for event in became(each, "succeeded")])
        await history.handle([accepted(created=random.choice([400, 5.5]))])
    left_alone = [id_ for id_ in reversed(ids(tasks)) if id_ not in touched]
    assert [id_ for id_ in shown if id_ in left_alone] == left_alone
    assert len(shown) == len(set(shown))


@pytest.fixture
async def mixed(history: History, lists: Lists) -> list[ListedTask]:
    """Three hundred of everything, newest first."""
    random = Random(1)
    for _ in range(300):
        created = random.randrange(-100, 100)
        is_late = random.random() < 0.1
        task = accepted(
            created=created, due=created - 50 if is_late else created + random.choice([0, 1, 30, 100]),
            url=random.choice(URLS + OF_A + NOT_OF_A), labels=random.choice(LABELS),
            schedule="nightly" if is_late else random.choice([None, None, "nightly", "hourly"]),
        )  # fmt: skip
        state = random.choice(["scheduled", "scheduled", "retrying", "succeeded", "failed", "cancelled", "expired"])
        await history.handle([task, *became(task, state, random.randrange(-100, 100))])
    return await listed_all(lists, TaskFilter())


_times = st.one_of(st.none(), st.integers(-160, 210).map(at))
FILTERS = st.builds(
    TaskFilter,
    status=st.lists(st.sampled_from(STATUSES), max_size=3, unique=True).map(
        lambda given: tuple(each for each in STATUSES if each in given)
    ),
    labels=st.sampled_from(LABELS), url_prefix=st.one_of(st.none(), st.sampled_from(PREFIXES)),
    host=st.sampled_from([None, None, *HOSTS]),
    due_from=_times, due_to=_times, created_from=_times, created_to=_times,
    ended_from=st.one_of(st.none(), _times), ended_to=st.one_of(st.none(), _times),
    schedule=st.sampled_from([None, None, None, "nightly", "hourly", "never"]),
)  # fmt: skip


async def test_a_filter_lets_through_what_a_naive_one_does(
    mixed: list[ListedTask], lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the ways to it are taken: the bounds between them are drawn too."""
    assert len(mixed) == 300
    loop = asyncio.get_running_loop()
    cases: list[tuple[TaskFilter, int, int, int]] = []

    @settings(max_examples=400, database=None, suppress_health_check=list(HealthCheck))
    @given(FILTERS, st.integers(1, 40), st.sampled_from([1, 3, 20, 1_000]), st.sampled_from([0, 10, 1_000]))
    def draw(wanted: TaskFilter, limit: int, window: int, most: int) -> None:
        cases.append((wanted, limit, window, most))

    await loop.run_in_executor(None, draw)
    for drawn, limit, window, most in cases:
        few = tuple(each.task.id for each in mixed[limit :: window or 1])
        wanted = msgspec.structs.replace(drawn, ids=few) if limit % 7 == 0 else drawn
        monkeypatch.setattr(store_lists, "FIRST_WINDOW", window)
        monkeypatch.setattr(store_lists, "SECOND_WINDOW", window * 2)
        monkeypatch.setattr(store_lists, "WINDOW", window * 2)
        monkeypatch.setattr(store_lists, "RANGE_MAX", most)
        expected = [listed.task.id for listed in mixed if is_wanted(listed, wanted, NOW)]
        assert await everything(lists, wanted, limit=limit) == expected, (wanted, limit, window, most)


async def test_a_search_that_takes_too_long_ends_and_goes_on_from_there(
    mixed: list[ListedTask], lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lists, "FIRST_WINDOW", 5)
    monkeypatch.setattr(store_lists, "SECOND_WINDOW", 5)
    monkeypatch.setattr(store_lists, "WINDOW", 10)
    monkeypatch.setattr(store_lists, "RANGE_MAX", 1)
    monkeypatch.setattr(store_lists, "SEARCH_S", 0.0)
    wanted = TaskFilter(url_prefix=URLS[0], status=("failed",), labels={"env": "prod"})
    page, place = await lists.page(Asked("default", wanted, NOW), NEWEST, 50)
    assert place is not None
    assert len(page) < 50
    assert await everything(lists, wanted) == [each.task.id for each in mixed if is_wanted(each, wanted, NOW)]


# --- plans


@pytest.fixture(scope="module")
def crowded_url(servers: dict[str, str]) -> Iterator[str]:
    """A database with a month of work, a hundredth of what the benchmark has."""
    with asyncio.Runner() as runner:
        database = fresh_database(servers["CARILLON_POSTGRES_URL"])
        url = runner.run(database.__aenter__())
        for schema, folder in migrations():
            migrate(url, schema, folder)
        runner.run(fill(url, 120_000, lambda _line: None))
        yield url
        runner.run(database.__aexit__(None, None, None))


@pytest.fixture
async def crowd(crowded_url: str) -> AsyncIterator[Postgres]:
    async with postgres_pool(crowded_url, role="carillon_ingest", schema="ingest", application_name="test") as opened:
        yield opened


DAY = timedelta(days=1)
FAILED: tuple[Status, ...] = ("failed",)
PLANS: dict[str, tuple[TaskFilter, set[str]]] = {
    "all": (TaskFilter(), {"task_newest"}),
    "status": (TaskFilter(status=FAILED), {"task_state"}),
    "statuses": (TaskFilter(status=("failed", "parked")), {"task_state"}),
    "due": (TaskFilter(status=("due",)), {"task_state", "task_made_late", "task_due"}),
    "label": (TaskFilter(labels={"customer": "42"}), {"task_label_pkey"}),
    "url": (TaskFilter(url_prefix="https://host3.example.com/"), {"task_newest", "task_url"}),
    "host": (TaskFilter(host="host3.example.com"), {"task_newest", "task_url"}),
    "host and status": (TaskFilter(host="host3.example.com", status=FAILED), {"task_state", "task_url"}),
    "ids": (TaskFilter(ids=(UUID(int=1), UUID(int=2))), {"task_newest", "task_pkey"}),
    "due range": (TaskFilter(due_from=NOW - 2 * DAY, due_to=NOW - DAY), {"task_newest", "task_made_late", "task_due"}),
    "schedule": (TaskFilter(schedule="nightly"), {"task_schedule"}),
    "label and status": (TaskFilter(labels={"customer": "42"}, status=FAILED),
                         {"task_label_pkey", "task_pkey", "task_state"}),
    "url and status": (TaskFilter(url_prefix="https://host3.example.com/", status=FAILED), {"task_state", "task_url"}),
    "due range and status": (TaskFilter(due_from=NOW, due_to=NOW + DAY, status=FAILED),
                             {"task_state", "task_made_late", "task_due"}),
}  # fmt: skip


async def test_each_way_to_a_page_is_by_its_index_and_sorts_no_more_than_a_page(crowd: Postgres) -> None:
    async with crowd.acquire() as connection, connection.transaction():
        await connection.execute(store_lists.BY_INDEX)
        owners = await index_owners(connection)
        for name, (wanted, expected) in PLANS.items():
            used: set[str] = set()
            for sql in ways(Asked("default", wanted, NOW)):
                plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql.text}", *sql.values))
                nodes = list(nodes_of(plan[0]["Plan"]))
                kinds = {node["Node Type"] for node in nodes}
                assert "Seq Scan" not in kinds, (name, sql.text)
                assert not any("Bitmap" in kind for kind in kinds), (name, sql.text)
                if "WITH found" not in sql.text:
                    assert "Sort" not in kinds, (name, sql.text, plan)
                used |= {owners[node["Index Name"]] for node in nodes if "Index Name" in node}
            # Of a state that few are in, any index that begins with the state will do.
            assert expected <= used <= expected | {"task_state"}, name


async def test_a_page_reads_little_however_rare_what_it_wants(crowd: Postgres) -> None:
    """Rows read by all of its statements together, not milliseconds: those are the benchmark's."""
    rare: list[tuple[TaskFilter, int]] = [
        (TaskFilter(), 51), (TaskFilter(status=FAILED), 51), (TaskFilter(labels={"needle": "1"}), 1),
        (TaskFilter(labels={"nobody": "1"}), 0), (TaskFilter(labels={"env": "prod"}), 51),
        (TaskFilter(due_from=NOW - 2 * DAY, due_to=NOW - DAY), 100),
    ]  # fmt: skip
    async with crowd.acquire() as connection, connection.transaction():
        await connection.execute(store_lists.BY_INDEX)
        for wanted, most in rare:
            [first, *_] = ways(Asked("default", wanted, NOW))
            plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {first.text}", *first.values))
            leaves = [node for node in nodes_of(plan[0]["Plan"]) if "Index Name" in node]
            # Each of eight partitions gives one row ahead of the merge.
            assert sum(node["Actual Rows"] * node["Actual Loops"] for node in leaves) <= most + 16, wanted


def ways(asked: Asked) -> list[store_filter.Sql]:
    sources = store_filter.sources(asked)
    return [
        *(store_filter.page(asked, source, NEWEST, 20_000, 51) for source in sources),
        *(store_filter.window_end(asked, source, NEWEST, 20_000) for source in sources),
        *(store_filter.in_range(asked, column, NEWEST, 20_001, 51) for column in store_filter.ranges(asked)),
    ]


def nodes_of(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes_of(child))]


async def index_owners(connection: Any) -> dict[str, str]:
    """The names that the migration gave, by those of the partitions' indexes."""
    rows = await connection.fetch(
        """
        SELECT child.relname AS child, coalesce(parent.relname, child.relname) AS owner
        FROM pg_class AS child LEFT JOIN pg_inherits ON inhrelid = child.oid
             LEFT JOIN pg_class AS parent ON parent.oid = inhparent
        WHERE child.relkind IN ('i', 'I')
        """
    )
    return {row["child"]: row["owner"] for row in rows}


# --- through RabbitMQ


async def test_the_newest_task_is_in_the_list_soon_after_its_event(
    amqp_url: str, history: History, lists: Lists
) -> None:
    """At 200 tasks a second; the median, because a machine that runs tests stops now and then. The goal is 200 ms."""
    publisher, stopping = Publisher(), asyncio.Event()
    consumer = history_consumer(history, publisher)
    out, into = Link(amqp_url, "out", topology()), Link(amqp_url, "in", topology())
    out.join(publisher)
    into.join(consumer.intake)
    async with out, into:
        working = asyncio.create_task(consumer.run(stopping))
        await publisher.flowing()
        delays_ms = await watched(publisher, lists, per_s=200, seconds=3)
        stopping.set()
        await working
    assert sorted(delays_ms)[len(delays_ms) // 2] < 200, delays_ms
