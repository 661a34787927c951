"""Where each GET row of the console is looked at: the rows' own paths, filled with objects of the seed."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any, cast

from playwright.async_api import Page as Window
from redis.asyncio import Redis

from libs.common.clock import SystemClock
from libs.common.settings import load
from services.ingest.console.page import Page
from services.ingest.console.wiring import Console, Parts
from services.ingest.settings import IngestSettings
from tests.browser.seed import PARTNER, Seed
from tests.conftest import ROOT

NOWHERE = {
    "CARILLON_AMQP_URL": "amqp://nobody@127.0.0.1:1",
    "CARILLON_POSTGRES_URL": "postgresql://nobody@127.0.0.1:1/none",
    "CARILLON_REDIS_URL": "redis://127.0.0.1:1/0",
    "CARILLON_BOOTSTRAP_KEY": "a-key-of-enough-length",
}
NOT_PAGES = {
    "/live": "a stream that does not end",
    "/login/done": "a redirection",
    "/digest/mail": "the mail in its frame on /digest; its look is the mailer's",
    "/schedules/-/preview": "a part of the editor",
}


def rows() -> list[Page]:
    """Every row of the console that shows a page, without a server behind it."""
    nothing = cast("Any", None)
    parts = Parts(
        postgres=nothing, redis=Redis(), publisher=nothing, commands=nothing, clock=SystemClock(),
        settings=load(IngestSettings, NOWHERE),
    )  # fmt: skip
    return [page for page in Console(parts).pages if page.method == "GET" and page.path not in NOT_PAGES]


async def places(admin: Window, seed: Seed, environ: Mapping[str, str]) -> dict[str, list[str]]:
    """Paths below /console by the row that serves them. Begins a command for many, and clears a cause."""
    clearing = await _clearing(admin)
    cause = await _first_link(admin, "/dead-letters", "/dead-letters/cause/")
    return {
        "/": ["/", "/?span=24h"],
        "/account": ["/account"],
        "/audit": ["/audit"],
        "/bulk": ["/bulk"],
        "/bulk/{id}": [await _bulk(admin)],
        "/bulk/cancel": ["/bulk/cancel?q=status:scheduled&all=1"],
        "/bulk/redrive": ["/bulk/redrive?q=status:failed&all=1"],
        "/bulk/purge": ["/bulk/purge?q=status:succeeded&all=1"],
        "/dead-letters": ["/dead-letters"],
        "/dead-letters/cause/{digest}": [cause],
        "/dead-letters/message": [await _first_link(admin, cause, "/dead-letters/message?")],
        "/dead-letters/clearing/{id}": [clearing],
        "/digest": ["/digest"],
        "/keys": ["/keys"],
        "/link/{token}": [_link(environ)],
        "/login": ["/login"],
        "/schedules": ["/schedules"],
        "/schedules/-/new": ["/schedules/-/new"],
        "/schedules/{name}": ["/schedules/nightly-report"],
        "/schedules/{name}/edit": ["/schedules/nightly-report/edit"],
        "/schedules/{name}/delete": ["/schedules/nightly-report/delete"],
        "/signing-secret": ["/signing-secret"],
        "/targets": ["/targets"],
        "/targets/{host}": [f"/targets/{host}" for host in (seed.open_host, PARTNER)],
        "/targets/{host}/redrive": [f"/targets/{seed.open_host}/redrive?since=24h"],
        "/tasks": ["/tasks", "/tasks?q=host:nobody.example"],
        "/tasks/new": ["/tasks/new", f"/tasks/new?from={seed.retried}"],
        "/tasks/{id}": [f"/tasks/{id_}" for id_ in (seed.failed, seed.retried, seed.scheduled)],
        "/tasks/{id}/reschedule": [f"/tasks/{seed.scheduled}/reschedule"],
        "/tasks/{id}/purge": [f"/tasks/{seed.failed}/purge"],
        "/users": ["/users"],
        "/users/{id}": [await _first_link(admin, "/users", "/users/")],
    }


async def _first_link(window: Window, path: str, begins: str) -> str:
    await window.goto(f"/console{path}")
    link = await window.locator(f"main a[href^='/console{begins}']").first.get_attribute("href")
    return str(link).removeprefix("/console")


async def _bulk(window: Window) -> str:
    await window.goto("/console/bulk/cancel?q=url:https://api.shop.example/batch/&all=1")
    await window.get_by_role("button", name="Cancel 5 tasks").click()
    await window.wait_for_url("**/console/bulk/*-*")
    return window.url.partition("/console")[2]


async def _clearing(window: Window) -> str:
    await window.goto("/console/dead-letters")
    await window.get_by_role("link", name="AttemptFinished").or_(window.get_by_role("link", name="uuid")).first.click()
    await window.get_by_label("Reason").fill("seen, from a test")
    await window.get_by_role("button", name="Drop all").click()
    await window.wait_for_url("**/clearing/*")
    await window.locator("#progress").get_by_text("Finished").wait_for()
    return window.url.partition("/console")[2]


def _link(environ: Mapping[str, str]) -> str:
    """To look at a link does not use it up."""
    command = (sys.executable, "-m", "services.ingest.users", "link", "--user", "vera")
    done = subprocess.run(command, cwd=ROOT, env=dict(environ), capture_output=True, text=True, check=True)
    return done.stdout.strip().partition("/console")[2]
