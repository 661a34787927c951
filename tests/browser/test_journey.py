"""What the console is for, from the log-in on: which target fails, why, and its tasks called after all, on a phone."""

import aiohttp
from playwright.async_api import expect

from tests.browser.conftest import PASSWORD, PHONE, URL, Console
from tests.e2e.conftest import Receiver, create, eventually, task_in


async def test_an_operator_finds_what_fails_reads_why_and_sees_it_succeed_when_the_target_is_mended(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["charge"] = [500]
    task = await create(api, url=f"{receiver.url}/charge", body={"order": 7}, labels={"order": "7"})
    await task_in(api, task["id"], "failed")

    page = await console.open("/tasks", None, size=PHONE)
    await page.get_by_label("Name").fill("otto")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{URL}/console/tasks")

    search = page.get_by_role("searchbox")
    await search.fill(f"status:failed host:{receiver.url.removeprefix('http://')} label.order:7 after:1h")
    await search.press("Enter")
    await page.wait_for_url("**q=status*")
    row = page.locator("tr[data-row]")
    await expect(row).to_have_count(1)
    await expect(row).to_contain_text("500")
    await row.get_by_role("link").click()
    await page.wait_for_url(f"**/tasks/{task['id']}")
    await expect(page.locator("#explain")).to_contain_text("attempt 3 failed with HTTP 500")

    receiver.answers["charge"] = [200]
    await page.get_by_role("button", name="Redrive", exact=True).click()
    # By itself: nobody asks for the page again.
    await expect(page.locator("h1 .status")).to_have_text("succeeded", timeout=20_000)
    [*_failed, last] = await eventually("the call", lambda: receiver.calls["charge"][3:])
    assert last.body == b'{"order": 7}'
