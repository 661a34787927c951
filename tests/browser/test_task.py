"""One task, by what a person sees and clicks: why it failed, again when its target is mended, and another like it."""

import re

import aiohttp
from playwright.async_api import expect

from tests.browser.conftest import PHONE, Console
from tests.browser.seed import Seed
from tests.e2e.conftest import Receiver, create, task_in

WAIT_MS = 20_000


async def test_a_page_that_stays_open_shows_a_task_fail_and_succeed_when_it_is_redriven(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["order"] = [503, 503, 503, 204]
    task = await create(api, url=f"{receiver.url}/order", body={"order": 42}, delay="6s")
    page = await console.open(f"/tasks/{task['id']}")
    state = page.locator("h1 .status")
    await expect(state).to_have_text("scheduled")
    request = page.get_by_role("heading", name="Request", exact=True)
    await request.scroll_into_view_if_needed()
    await expect(state).to_have_text("failed", timeout=WAIT_MS)
    await expect(page.locator("#explain")).to_contain_text("attempt 3 failed with HTTP 503")
    await expect(page.locator("li.attempt")).to_have_count(3)
    assert await page.locator("#task").get_attribute("hx-trigger") is None
    await page.get_by_role("button", name="Redrive", exact=True).click()
    await expect(page.locator(".flash")).to_have_text("Redriven: it starts again now, with a fresh ladder.")
    await expect(state).to_have_text("succeeded", timeout=WAIT_MS)
    await expect(page.get_by_text("Generation 1, before it was started again: 3 attempts")).to_be_visible()


async def test_what_was_unfolded_stays_so_while_the_page_follows_the_task(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["slow"] = [503, 503, 503]
    task = await create(api, url=f"{receiver.url}/slow", retry={"schedule_s": [4, 60]})
    await task_in(api, task["id"], "retrying")
    page = await console.open(f"/tasks/{task['id']}")
    first = page.locator("#answer-of-attempt-1-1")
    await expect(first).to_have_attribute("open", "")
    await first.locator("summary").click()
    await expect(first).not_to_have_attribute("open", "")
    await expect(page.locator("#attempt-1-2")).to_be_visible(timeout=WAIT_MS)
    await expect(first).not_to_have_attribute("open", "")
    await expect(page.locator("#answer-of-attempt-1-2")).to_have_attribute("open", "")
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await expect(page.locator("h1 .status")).to_have_text("cancelled", timeout=WAIT_MS)


async def test_a_task_is_cloned_and_moved_on_a_phone(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    headers = {"Authorization": "Bearer hunter2", "X-Order": "42"}
    task = await create(api, url=f"{receiver.url}/clone", headers=headers, body={"order": 42}, delay="1h")
    console.complaints.expected = {422}
    page = await console.open(f"/tasks/{task['id']}", size=PHONE)
    await page.get_by_role("button", name="Clone").click()
    await expect(page.get_by_text("type Authorization again")).to_be_visible()
    await page.get_by_label("Call it", exact=True).fill("in 2 h")
    await page.get_by_role("button", name="Create the task").click()
    await expect(page.get_by_text("type its value again, or remove the line")).to_be_visible()
    lines = await page.get_by_label("Headers", exact=True).input_value()
    await page.get_by_label("Headers", exact=True).fill(re.sub("Authorization: .*", "Authorization: typed", lines))
    await page.get_by_role("button", name="Create the task").click()
    await expect(page.locator(".flash")).to_contain_text("Created: it is called at")
    made = page.url.rpartition("/")[2]
    assert made != task["id"]
    await page.get_by_role("button", name="Reschedule").click()
    await page.get_by_label("When").fill("in 1 s")
    await page.get_by_role("button", name="Reschedule").click()
    await expect(page.locator("h1 .status")).to_have_text("succeeded", timeout=WAIT_MS)
    [call] = receiver.calls["clone"]
    assert call.headers["authorization"] == "typed"


async def test_the_line_to_copy_is_copied(console: Console, seeded: Seed) -> None:
    page = await console.open(f"/tasks/{seeded.failed}", "viewer")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy the redrive").click()
    await expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied == await page.locator("#redrive-curl").inner_text()
    assert f"/v1/tasks/{seeded.failed}/redrive" in copied


async def test_without_javascript_all_of_it_can_be_read_and_done(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["plain"] = [500, 500, 500, 200]
    task = await create(api, url=f"{receiver.url}/plain")
    await task_in(api, task["id"], "failed")
    page = await console.open(f"/tasks/{task['id']}", has_script=False)
    await expect(page.get_by_text("Attempts, latest first")).to_be_visible()
    await expect(page.get_by_role("button", name="Copy the call")).to_be_hidden()
    await page.get_by_role("button", name="Redrive", exact=True).click()
    await expect(page.locator(".flash")).to_contain_text("Redriven")
    await task_in(api, task["id"], "succeeded")
    await page.reload()
    await expect(page.locator("h1 .status")).to_have_text("succeeded")
