"""The stack in containers, once a session; every test leaves it as it found it, and `stack` starts it when it is down.

Where neither an engine nor its images can be had, the tier is skipped, and the last lines say so and why.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chaos.client import session
from tests.compose import engine
from tests.compose.outside import Mailpit, Prometheus, Sink
from tests.compose.project import Project

# Two rungs, so that a test can climb them; a digest every three seconds.
RETRY_SCHEDULE_S = (1.0, 2.0)
SETTINGS = {
    "CARILLON_RETRY_SCHEDULE_S": ",".join(f"{delay_s:g}" for delay_s in RETRY_SCHEDULE_S),
    "CARILLON_DIGEST_CRON": "*/3 * * * * *",
}
_not_run = pytest.StashKey[str]()
_notes = pytest.StashKey[list[str]]()
_project = pytest.StashKey[Project]()


@pytest.fixture(scope="session")
def project(pytestconfig: pytest.Config) -> Iterator[Project]:
    """Removed at the end with all its volumes, also after Ctrl-C and SIGTERM."""
    try:
        engine.start_engine()
        project = Project(f"carillon-test-{os.getpid()}", SETTINGS)
        project.provide_images()
    except engine.NotRun as reason:
        pytestconfig.stash[_not_run] = str(reason)
        pytest.skip(f"the compose tier did not run: {reason}")
    pytestconfig.stash[_project] = project
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield project
    finally:
        project.down()
        project.remove_images()
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def stack(project: Project) -> Project:
    """The project, up and healthy."""
    if not project.ids("container"):
        project.up()
    return project


@pytest.fixture
async def api(stack: Project) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of ingest, with the key."""
    headers = {"Authorization": f"Bearer {stack.secret('carillon_bootstrap_key')}"}
    async with aiohttp.ClientSession(stack.url("ingest", 8080), headers=headers) as http:
        yield http


@pytest.fixture
async def http(stack: Project) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with the key, for whole URLs; it waits no longer than the one of `make chaos`."""
    async with session(stack.secret("carillon_bootstrap_key")) as http:
        yield http


@pytest.fixture
def sink(stack: Project, http: aiohttp.ClientSession) -> Sink:
    return Sink(http, stack.url("sink", 8000))


@pytest.fixture
def mailpit(stack: Project, http: aiohttp.ClientSession, tmp_path: Path) -> Mailpit:
    return Mailpit(http, stack.url("mailpit", 8025), tmp_path)


@pytest.fixture
def prometheus(stack: Project, http: aiohttp.ClientSession) -> Prometheus:
    return Prometheus(http, stack.url("prometheus", 9090))


@pytest.fixture
def note(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """A line for the end of the session: what was measured."""
    return pytestconfig.stash.setdefault(_notes, []).append


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report: pytest.TestReport = yield
    project = item.config.stash.get(_project, None)
    if report.failed and project is not None and Path(__file__).parent in item.path.parents:
        report.sections.append(("containers and the ends of their logs", project.logs()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reason := config.stash.get(_not_run, None):
        terminalreporter.section("THE COMPOSE TIER DID NOT RUN", red=True)
        terminalreporter.line(reason)
    for line in config.stash.get(_notes, []):
        terminalreporter.line(line)
    project = config.stash.get(_project, None)
    if project is not None and project.left_out:
        terminalreporter.line(f"left out, because neither a registry nor a stand-in has it: {sorted(project.left_out)}")
