"""The console on a stack of its own under `.local/browser`, and a browser that is logged in as each role.

All tests share one event loop, the browser's. Whatever a page complains of (console, CSP, failed requests) fails the
test that opened it.
"""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, StorageState

from deploy.local.errors import StackError
from deploy.local.private import PrivateStack, private_stack
from tests import conftest as servers
from tests.browser.chromium import browser as started_browser
from tests.browser.chromium import chromium
from tests.browser.complaints import Complaints
from tests.browser.seed import Seed, seed
from tests.e2e.conftest import Receiver, listening

STACK = servers.STACK.with_name("browser")
PORT_OFFSET = servers.PORT_OFFSET + 2000
REPLICAS = 2
URL = f"http://127.0.0.1:{8080 + PORT_OFFSET}"
SETTINGS = {
    # A task that fails is failed after a second; the digest waits, to be looked at.
    "CARILLON_RETRY_SCHEDULE_S": "0.5,0.5",
    "CARILLON_DIGEST_CRON": "0 8 * * *",
    "CARILLON_PUBLIC_URL": URL,
}
PASSWORD = "a bell for every hour"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 900}
ACTION_MS = 10_000

Role = Literal["viewer", "operator", "admin"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@dataclass
class Console:
    """Opens pages as one of the roles; `complaints` are those of all its pages."""

    browser: Browser
    states: Mapping[Role, StorageState]
    complaints: Complaints = field(default_factory=Complaints)
    _contexts: list[BrowserContext] = field(default_factory=list)

    async def open(
        self,
        path: str,
        role: Role | None = "operator",
        *,
        size: Mapping[str, int] = DESK,
        scheme: Literal["light", "dark"] = "light",
        has_script: bool = True,
        timezone: str = "Europe/Berlin",
    ) -> Page:
        """A new window at this page, below /console unless it begins with http."""
        context = await self.browser.new_context(
            base_url=URL,
            viewport={"width": size["width"], "height": size["height"]},
            color_scheme=scheme,
            java_script_enabled=has_script,
            storage_state=self.states[role] if role else None,
            timezone_id=timezone,
            locale="en-GB",
            reduced_motion="reduce",
        )
        context.set_default_timeout(ACTION_MS)
        self._contexts.append(context)
        page = await context.new_page()
        await self.complaints.watch(page)
        await page.goto(path if path.startswith("http") else f"/console{path}")
        return page

    async def close(self) -> None:
        for context in self._contexts:
            await context.close()


@pytest.fixture(scope="session")
def stack() -> Iterator[PrivateStack]:
    outside = {name: "" for name in os.environ if name.startswith("CARILLON_")}
    try:
        with private_stack(STACK, port_offset=PORT_OFFSET, replicas=REPLICAS, settings=outside | SETTINGS) as up:
            yield up
    except StackError as error:
        _missing(str(error))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    try:
        found = chromium(tmp_path_factory.mktemp("chromium"))
    except StackError as error:
        _missing(str(error))
    async with started_browser(found) as browser:
        yield browser


@pytest.fixture(scope="session")
def first_link(stack: PrivateStack) -> str:
    """The one-time link that makes the first admin, as the operator of the machine asks for it."""
    command = (sys.executable, "-m", "services.ingest.users", "link", "--url", URL)
    done = subprocess.run(
        command, cwd=servers.ROOT, env=os.environ | stack.variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def states(browser: Browser, first_link: str) -> dict[Role, StorageState]:
    """Cookies of an admin who came by the set-up link, and of the two whom they invited."""
    complaints = Complaints()
    admin = await browser.new_context(base_url=URL)
    page = await admin.new_page()
    await complaints.watch(page)
    await _use_link(page, first_link, "ada")
    states: dict[Role, StorageState] = {}
    invited: tuple[tuple[str, Role], ...] = (("otto", "operator"), ("vera", "viewer"))
    for name, role in invited:
        await page.goto("/console/users")
        await page.get_by_label("Name").fill(name)
        await page.get_by_label("Role").select_option(role)
        await page.get_by_role("button", name="Invite").click()
        link = (await page.locator("#link").inner_text()).strip()
        other = await browser.new_context(base_url=URL)
        theirs = await other.new_page()
        await complaints.watch(theirs)
        await _use_link(theirs, link)
        states[role] = await other.storage_state()
        await other.close()
    states["admin"] = await admin.storage_state()
    await admin.close()
    assert complaints.all == []
    return states


async def _use_link(page: Page, link: str, name: str = "") -> None:
    await page.goto(link)
    if name:
        await page.get_by_label("Name").fill(name)
    for box in await page.locator("input[type=password]").all():
        await box.fill(PASSWORD)
    await page.locator("main form button").click()
    await page.wait_for_url(f"{URL}/console")


@pytest_asyncio.fixture(loop_scope="session")
async def console(browser: Browser, states: dict[Role, StorageState]) -> AsyncIterator[Console]:
    console = Console(browser, states)
    yield console
    await console.close()
    assert console.complaints.all == []


@pytest_asyncio.fixture(loop_scope="session")
async def api(stack: PrivateStack) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    async with aiohttp.ClientSession(URL, headers=headers) as session:
        yield session


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    async with listening() as receiver:
        yield receiver


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def seeded(stack: PrivateStack) -> AsyncIterator[Seed]:
    """A day in the life of a project, and one object for each kind of page."""
    async with listening() as receiver:
        headers = {"Authorization": f"Bearer {stack.api_key}"}
        async with aiohttp.ClientSession(URL, headers=headers) as api:
            yield await seed(api, stack.variables["CARILLON_AMQP_URL"], receiver)


def _missing(reason: str) -> Any:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
