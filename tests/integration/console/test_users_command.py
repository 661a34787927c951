"""`python -m services.ingest.users`, and what ingest tells in its log while there is no user."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from yarl import URL

from deploy.local import stack
from deploy.local.environment import environment
from deploy.local.layout import Layout
from deploy.local.summary import summary
from libs.common.clock import SystemClock
from libs.common.ids import new_id
from libs.common.lifecycle import EXIT_FAILED, EXIT_SETTINGS, Fatal
from libs.common.postgres import postgres_pool
from services.ingest import users as command
from services.ingest.console.keeping import Keeping
from services.ingest.console.page import ROOT
from services.ingest.store_audit import FORGET_BATCH, AuditStore
from services.ingest.store_users import UserStore
from tests.integration.console.conftest import Rig
from tests.integration.console.test_users import use
from tests.integration.console.users import with_password


@pytest.fixture(autouse=True)
def logging_of_before() -> object:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def url(console: Rig, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CARILLON_POSTGRES_URL", migrated_postgres_url)
    return migrated_postgres_url


async def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)"""
    code = await asyncio.to_thread(command.main, list(arguments))
    return code, *capsys.readouterr()


def path_in(stdout: str) -> str:
    return URL(stdout.strip()).path.removeprefix(ROOT)


async def test_the_first_link_is_all_that_stands_on_stdout_and_works(
    console: Rig, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stdout, stderr = await run(capsys, "link")
    assert code == 0
    assert stdout.startswith(f"http://localhost:8080{ROOT}/link/")
    assert stdout.count("\n") == 1
    assert "works once, until" in stderr
    assert (await use(await console.visit(), path_in(stdout), "ann")).status == 303

    code, stdout, stderr = await run(capsys, "link")
    assert (code, stdout) == (EXIT_FAILED, "")
    assert "--user NAME" in stderr


async def test_a_link_for_a_user_sets_their_password(
    console: Rig, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await with_password(console, "ann", "admin")
    monkeypatch.setenv("CARILLON_PUBLIC_URL", "https://carillon.example.com/")
    code, stdout, _ = await run(capsys, "link", "--user", "Ann")
    assert code == 0
    assert stdout.startswith(f"https://carillon.example.com{ROOT}/link/")
    assert (await use(await console.visit(), path_in(stdout))).status == 303
    assert (await run(capsys, "link", "--user", "ann", "--url", "http://x:1"))[1].startswith("http://x:1/console/link/")
    assert (await run(capsys, "link", "--user", "eve"))[0] == EXIT_FAILED


async def test_the_local_stack_tells_the_link_until_there_is_a_user(console: Rig, url: str, tmp_path: Path) -> None:
    request = stack.Request(Layout(tmp_path))
    told = environment({"CARILLON_POSTGRES_URL": url}, request.layout)
    link = await asyncio.to_thread(stack.first_link, request, told)
    assert link is not None
    assert link.startswith(f"http://127.0.0.1:8080{ROOT}/link/")
    assert f"console       {link}\n" in summary(request.layout, told, 1, link, servers_only=False)
    assert (await use(await console.visit(), path_in(link), "ann")).status == 303

    assert await asyncio.to_thread(stack.first_link, request, told) is None
    assert f"console       http://127.0.0.1:8080{ROOT}\n" in summary(request.layout, told, 1, servers_only=False)


async def test_list_and_disable(console: Rig, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    await with_password(console, "ann", "admin")
    await console.user("viewer", "bob", ["shop", "billing"])
    assert (await run(capsys, "disable", "bob"))[0] == 0
    code, stdout, _ = await run(capsys, "list")
    assert (code, stdout.splitlines()) == (
        0,
        ["ann\tadmin\tall projects\tactive\tnever seen", "bob\tviewer\tshop,billing\tdisabled\tnever seen"],
    )
    code, _, stderr = await run(capsys, "disable", "ann")
    assert code == EXIT_FAILED
    assert "the last admin" in stderr
    assert (await run(capsys, "link", "--user", "bob"))[0] == EXIT_FAILED, "disabled"


async def test_without_the_database_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARILLON_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, _, stderr = await run(capsys, "list")
    assert code == EXIT_FAILED
    assert "127.0.0.1:1" in stderr
    monkeypatch.delenv("CARILLON_POSTGRES_URL")
    assert (await run(capsys, "list"))[0] == EXIT_SETTINGS


# --- in ingest


def keeping(console: Rig, retention_days: int = 30) -> Keeping:
    return Keeping(
        UserStore(console.postgres),
        AuditStore(console.postgres),
        SystemClock(),
        url="http://localhost:8080",
        retention_days=retention_days,
    )


async def test_while_there_is_no_user_each_start_tells_a_link_that_works(console: Rig) -> None:
    with capture_logs() as logs:
        for _ in range(2):  # replicas, or starts
            await keeping(console).one_pass(asyncio.Event())
    links = [entry["link"] for entry in logs if entry["event"] == "console.has-no-user"]
    assert len(set(links)) == 2
    assert (await use(await console.visit(), path_in(links[0]), "ann")).status == 303

    with capture_logs() as logs:
        await keeping(console).one_pass(asyncio.Event())
    assert [entry for entry in logs if entry["event"] == "console.has-no-user"] == []


async def test_one_start_tells_it_once(console: Rig) -> None:
    each = keeping(console)
    with capture_logs() as logs:
        for _ in range(3):
            await each.one_pass(asyncio.Event())
    assert len([entry for entry in logs if entry["event"] == "console.has-no-user"]) == 1


async def test_what_is_older_than_the_retention_is_forgotten(console: Rig) -> None:
    audit, now = AuditStore(console.postgres), SystemClock().now()
    async with console.postgres.acquire() as connection:
        await connection.execute(
            "INSERT INTO audit (id, at, actor, action, object, detail, address)"
            " SELECT gen_random_uuid(), now() - interval '31 days', '', '', '', '{}', '' FROM generate_series(1, $1)",
            2 * FORGET_BATCH + 1,
        )
    await audit.begin(new_id(), now - timedelta(days=29), actor="ann", project=None, action="kept", address="")
    users = UserStore(console.postgres)
    for digest, until in ((b"old", now), (b"new", now + timedelta(minutes=1))):
        assert await users.add_first_link(digest, now - timedelta(days=1), until)

    await keeping(console).one_pass(asyncio.Event())

    assert [row["action"] for row in await console.audit()] == ["kept"]
    async with console.postgres.acquire() as connection:
        digests = {digest for (digest,) in await connection.fetch("SELECT digest FROM console_link")}
    assert b"old" not in digests
    assert b"new" in digests


async def test_without_the_tables_ingest_says_what_to_do(postgres_url: str) -> None:
    async with postgres_pool(postgres_url, role="carillon", schema="public", application_name="test") as postgres:
        with pytest.raises(Fatal, match=r"deploy\.setup"):
            await UserStore(postgres).add_first_link(b"", SystemClock().now(), SystemClock().now())
