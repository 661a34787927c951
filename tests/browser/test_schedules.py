"""Schedules, by what a person types and sees: the times over a clock change before anything is made, and what came."""

import re
from datetime import UTC, datetime, timedelta

import aiohttp
from playwright.async_api import expect

from tests.browser.conftest import PHONE, Console
from tests.browser.seed import Seed
from tests.e2e.conftest import Receiver

WAIT_MS = 20_000


def spring() -> datetime:
    """The day of next year on which clocks in Berlin are set forward."""
    last = datetime(datetime.now(UTC).year + 1, 3, 31, tzinfo=UTC)
    return last - timedelta(days=(last.weekday() + 1) % 7)


async def test_a_cron_schedule_is_seen_over_a_clock_change_while_it_is_typed_and_then_made(
    console: Console, receiver: Receiver
) -> None:
    day = spring()
    page = await console.open("/schedules")
    await page.get_by_role("button", name="New schedule").click()
    preview = page.locator("#preview")
    await expect(preview).to_contain_text("Type a cron expression")
    await page.get_by_label("Name").fill(f"dst-{day:%Y}")
    await page.get_by_label("Zone").fill("Europe/Berlin")
    await page.get_by_label("Not before").fill(f"{day - timedelta(days=1):%Y-%m-%d}T00:00:00Z")
    cron = page.get_by_label("Cron expression")

    await cron.press_sequentially("61 2 * * *")
    await expect(page.locator("#cron-fault")).to_contain_text("'61' is no minute")
    await expect(preview).to_contain_text("These times cannot be read")

    await cron.fill("30 2 * * *")
    await expect(page.locator("#cron-fault")).to_be_empty()
    await expect(preview).to_contain_text("At 02:30 every day")
    moved = preview.locator("tr.changed").first
    await expect(moved).to_contain_text(f"{day:%a %d %b %Y} 03:00:00 +02:00")
    await expect(moved).to_contain_text("moved Clocks skip 02:30 that day")
    await expect(preview.locator("tbody tr")).to_have_count(10)
    await expect(cron).to_be_focused()

    await page.get_by_label("URL", exact=True).fill(f"{receiver.url}/dst")
    await page.get_by_label("Headers", exact=True).fill("Authorization: Bearer sesame")
    await page.get_by_role("button", name="Create it").click()

    await expect(page.locator(".flash")).to_have_text(f"Created: dst-{day:%Y}.")
    await expect(page.locator("h1")).to_contain_text("active")
    await expect(page.locator(".fires tr.changed").first).to_contain_text("Clocks skip 02:30 that day")
    await expect(page.get_by_text("sesame")).to_have_count(0)


async def test_one_is_run_and_its_result_seen_live_and_it_is_paused_edited_and_deleted(
    console: Console, api: aiohttp.ClientSession, receiver: Receiver
) -> None:
    schedule = {"every": "300d", "task": {"url": f"{receiver.url}/bell"}}
    async with api.put("/v1/schedules/bell", json=schedule) as answer:
        assert answer.status == 201
    page = await console.open("/schedules/bell", size=PHONE)
    await expect(page.get_by_text("None yet.")).to_be_visible()
    await page.get_by_role("button", name="Run now").click()
    await expect(page.locator(".flash")).to_contain_text("is made, and called now.")
    await expect(page.locator(".mark.succeeded")).to_be_visible(timeout=WAIT_MS)
    assert len(receiver.calls["bell"]) == 1

    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("h1 .status")).to_have_text("paused")
    await page.get_by_role("button", name="Edit").click()
    await page.get_by_label("Or every").fill("200d")
    await expect(page.locator("#preview")).to_contain_text("Every 200 days")
    await page.get_by_role("button", name="Save it").click()
    await expect(page.locator(".flash")).to_have_text("Saved: bell.")
    await expect(page.locator("h1 .status")).to_have_text("paused")
    await page.get_by_role("button", name="Resume").click()
    await expect(page.locator("h1 .status")).to_have_text("active")
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("button", name="Delete it").click()
    await expect(page.locator(".flash")).to_contain_text("Deleted: bell")
    await expect(page.get_by_role("link", name="bell", exact=True)).to_have_count(0)


async def test_two_who_edit_one_schedule_do_not_lose_each_others_change(
    console: Console, api: aiohttp.ClientSession, seeded: Seed
) -> None:
    schedule = {"cron": "0 9 * * *", "task": {"url": "https://example.com/report"}}
    async with api.put("/v1/schedules/shared", json=schedule) as answer:
        assert answer.status == 201
    console.complaints.expected = {409}
    one, other = await console.open("/schedules/shared/edit"), await console.open("/schedules/shared/edit", "admin")
    await one.get_by_label("Cron expression").fill("0 10 * * *")
    await one.get_by_role("button", name="Save it").click()
    await expect(one.locator(".flash")).to_have_text("Saved: shared.")
    await other.get_by_label("Cron expression").fill("0 11 * * *")
    await other.get_by_role("button", name="Save it").click()
    await expect(other.get_by_role("heading", name="Changed since you opened it")).to_be_visible()
    await expect(other.locator("tr", has_text="0 10 * * *")).to_contain_text("0 11 * * *")
    await expect(other.get_by_label("Cron expression")).to_have_value("0 11 * * *")
    await other.get_by_role("button", name="Save it").click()
    await expect(other.locator(".flash")).to_have_text("Saved: shared.")


async def test_without_javascript_the_preview_is_a_button_and_keeps_what_was_typed(console: Console) -> None:
    page = await console.open("/schedules/-/new", has_script=False)
    await page.get_by_label("Name").fill("plain")
    await page.get_by_label("Cron expression").fill("0 9 * * MON")
    await page.get_by_label("Body", exact=True).fill("\n\n[1,\n2]")
    await page.get_by_role("button", name="Preview").click()
    await expect(page.locator("#preview")).to_contain_text("At 09:00 on Monday, UTC")
    await expect(page.get_by_label("Name")).to_have_value("plain")
    await expect(page.get_by_label("Body", exact=True)).to_have_value("\n\n[1,\n2]")
    await expect(page).to_have_url(re.compile("/console/schedules/-/preview$"))
