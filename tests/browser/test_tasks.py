"""The list of tasks and a command for many, as somebody uses them while things change."""

import asyncio
import re
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Page, expect

from libs.common.ids import new_id
from tests.browser.conftest import Console
from tests.e2e.conftest import Receiver, create

MANY = 5_000
BATCH = 1_000
LIVE_MS = 15_000
WORK_MS = 180_000
GONE = 410
"""Fails a task at its first call."""


async def test_selection_focus_and_place_survive_what_changes_while_somebody_looks(
    console: Console, api: aiohttp.ClientSession
) -> None:
    label = new_id().hex
    task: dict[str, Any] = {"url": "https://later.example/x", "delay": "2d", "labels": {"live": label}}
    first = [(await create(api, **task))["id"] for _ in range(30)]
    page = await console.open(f"/tasks?q=label.live:{label}")
    rows = page.locator("tr[data-row]")
    await expect(rows).to_have_count(30, timeout=LIVE_MS)

    chosen, focused = first[5], first[2]
    await page.locator(f"#select-{chosen}").check()
    await page.locator(f"#open-{focused}").focus()
    before = await _top_of(page, focused)
    new = (await create(api, **task))["id"]
    async with api.delete(f"/v1/tasks/{chosen}") as response:
        assert response.status == 200

    await expect(page.locator(f"#task-{new}")).to_be_visible(timeout=LIVE_MS)
    await expect(page.locator(f"#task-{chosen} .status")).to_have_text("cancelled", timeout=LIVE_MS)
    await expect(page.locator(f"#select-{chosen}")).to_be_checked()
    await expect(page.locator("#rows input[name=id]:checked")).to_have_count(1)
    await expect(page.locator("[data-selected]")).to_have_text("1 selected:")
    assert await page.evaluate("document.activeElement.id") == f"open-{focused}"
    assert abs(await _top_of(page, focused) - before) < 80  # a row came above it, and nothing else moved


async def test_a_row_that_matches_no_more_stays_where_it_is(console: Console, api: aiohttp.ClientSession) -> None:
    label = new_id().hex
    task = await create(api, url="https://later.example/x", delay="2d", labels={"live": label})
    page = await console.open(f"/tasks?q=label.live:{label} status:scheduled")
    await expect(page.locator(f"#task-{task['id']}")).to_be_visible(timeout=LIVE_MS)
    async with api.delete(f"/v1/tasks/{task['id']}") as response:
        assert response.status == 200
    await expect(page.locator(f"#task-{task['id']} .status")).to_have_text("cancelled", timeout=LIVE_MS)


async def test_all_on_the_page_are_selected_at_once(console: Console, api: aiohttp.ClientSession) -> None:
    label = new_id().hex
    for _ in range(3):
        await create(api, url="https://later.example/x", delay="2d", labels={"live": label})
    page = await console.open(f"/tasks?q=label.live:{label}")
    await expect(page.locator("tr[data-row]")).to_have_count(3, timeout=LIVE_MS)
    await page.get_by_label("Select all on this page").check()
    await expect(page.locator("[data-selected]")).to_have_text("3 selected:")
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("h1")).to_have_text("Cancel 3 tasks?")
    await page.get_by_role("button", name="Cancel 3 tasks").click()
    await expect(page.locator("#outcome")).to_contain_text("3 cancelled", timeout=LIVE_MS)


async def test_a_search_without_script_finds_selects_and_asks(console: Console, api: aiohttp.ClientSession) -> None:
    label = new_id().hex
    task = await create(api, url="https://later.example/x", delay="2d", labels={"live": label})
    page = await console.open("/tasks", has_script=False)
    for _ in range(50):
        await page.get_by_role("searchbox").fill(f"label.live:{label}")
        await page.get_by_role("button", name="Search").click()
        if await page.locator("tr[data-row]").count():
            break
    await page.locator(f"#select-{task['id']}").check()
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("h1")).to_have_text("Cancel 1 task?")


@pytest.mark.timeout(600)
async def test_five_thousand_failed_tasks_are_redriven_with_progress_though_the_page_is_left(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    label, host = new_id().hex, receiver.url.removeprefix("http://")
    receiver.answers["broken"] = [GONE]
    tasks = [{"url": f"{receiver.url}/broken", "labels": {"live": label}} for _ in range(BATCH)]
    for _ in range(MANY // BATCH):
        async with api.post("/v1/tasks/batch", json={"tasks": tasks}) as response:
            assert response.status == 200
    await _until_matched(api, label, "failed")
    receiver.answers["broken"] = [200]

    page = await console.open(f"/tasks?q=status:failed host:{host} label.live:{label}")
    await page.get_by_label("all that match").check()
    await page.get_by_role("button", name="Redrive").click()
    await expect(page.locator("h1")).to_have_text(re.compile(r"Redrive 5\s000 tasks\?"))
    await page.get_by_role("button", name="Redrive").click()

    await expect(page.locator("#outcome")).to_contain_text(
        re.compile(r"\b[1-9]\d? % done, about .* left"), timeout=LIVE_MS
    )
    at = page.url
    await page.goto("/console/tasks")
    await page.goto(at)
    await expect(page.locator("#outcome")).to_contain_text(re.compile(r"5\s000 redriven"), timeout=WORK_MS)
    assert await page.locator("progress").get_attribute("value") == "100"
    await _until_matched(api, label, "succeeded")


async def _top_of(page: Page, id_: str) -> float:
    box = await page.locator(f"#task-{id_}").bounding_box()
    assert box is not None
    return box["y"]


async def _until_matched(api: aiohttp.ClientSession, label: str, status: str) -> None:
    """That many have come to it; what a purge would count is exact."""
    matched, deadline = 0, asyncio.get_running_loop().time() + WORK_MS / 1000
    while matched < MANY:
        assert asyncio.get_running_loop().time() < deadline, f"{matched} of {MANY} are {status}"
        body = {"filter": {"label.live": label, "status": status}, "dry_run": True}
        async with api.post("/v1/tasks/purge", json=body) as response:
            matched = (await response.json())["matched"]
        await asyncio.sleep(0.5)
