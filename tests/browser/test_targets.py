"""A host paused, mended and redriven; parked messages cleared away; the next digest looked at."""

from urllib.parse import urlsplit

import aiohttp
from playwright.async_api import expect

from tests.browser.conftest import PHONE, Console
from tests.browser.seed import Seed
from tests.e2e.conftest import Receiver, create, eventually, task_in

WAIT_MS = 20_000


async def test_a_target_is_paused_its_tasks_wait_and_are_called_when_it_is_resumed(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    host = urlsplit(receiver.url).netloc
    page = await console.open(f"/targets/{host}", size=PHONE)
    await page.get_by_role("button", name="Pause calls").click()
    await expect(page.locator(".flash")).to_contain_text(f"Paused: no call to {host}")
    await expect(page.locator("#standing .status.paused")).to_be_visible()
    # Each dispatcher reads once a second what is paused: the one that took the command knows it before the other.
    task = await create(api, url=f"{receiver.url}/held", delay="3s")

    async def put_off() -> str | None:
        async with api.get(f"/v1/tasks/{task['id']}/explain") as answer:
            told = await answer.json()
            return told["sentence"] if told.get("code") == "put_off" else None

    sentence: str = await eventually("the task to be put off", put_off)
    assert "paused" in sentence
    assert "held" not in receiver.calls

    await page.get_by_role("button", name="Resume calls").click()
    await expect(page.locator(".flash")).to_contain_text(f"Resumed: {host}")
    await task_in(api, task["id"], "succeeded")
    await expect(page.locator("#standing tbody tr").first).to_contain_text("100 %", timeout=WAIT_MS)


async def test_what_failed_for_a_host_is_counted_and_started_again_when_it_is_mended(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    receiver.answers["mended"] = [500, 500, 500, 200]
    task = await create(api, url=f"{receiver.url}/mended")
    await task_in(api, task["id"], "failed")

    page = await console.open(f"/targets/{urlsplit(receiver.url).netloc}")
    await page.get_by_label("Failed since").fill("24h")
    await page.get_by_role("button", name="Count them").click()
    await page.get_by_role("button", name="Redrive 1", exact=True).click()

    await expect(page.locator(".flash")).to_contain_text("Started: failed calls to")
    await task_in(api, task["id"], "succeeded")


async def test_a_cause_is_dropped_for_a_reason_and_its_progress_seen(console: Console, seeded: Seed) -> None:
    page = await console.open("/dead-letters", size=PHONE)
    causes = page.locator("#rows tbody tr")
    await expect(causes.first).to_be_visible(timeout=WAIT_MS)
    before = await causes.count()
    await causes.last.get_by_role("link").first.click()
    await page.get_by_label("Reason").fill("made by a test")
    await page.get_by_role("button", name="Drop all 1").click()

    await expect(page.locator("#progress")).to_contain_text("Finished", timeout=WAIT_MS)
    await expect(page.locator("#progress")).to_contain_text("made by a test")
    await page.get_by_role("link", name="Dead letters").first.click()
    await expect(causes).to_have_count(before - 1)


async def test_the_mail_is_seen_in_its_frame(console: Console, seeded: Seed) -> None:
    page = await console.open("/digest", scheme="dark")
    await expect(page.get_by_text("Next digest")).to_be_visible()
    await expect(page.frame_locator("iframe.mail").locator("h1")).to_contain_text("Carillon:")
