"""Every page of the console, on a phone and on a desk, light and dark: nothing to complain of, nothing out of reach.

Pictures of all of them lie in .local/browser-pages/ afterwards, to be looked at.
"""

import os
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, StorageState, expect

from deploy.local.private import PrivateStack
from tests.browser.conftest import DESK, PHONE, Console, Role
from tests.browser.places import places, rows
from tests.browser.seed import Seed
from tests.conftest import ROOT
from tests.e2e.conftest import eventually

PICTURES = ROOT / ".local" / "browser-pages"
AXE = (files("axe_playwright_python") / "axe.min.js").read_text()
# The mail on /digest is in a sandboxed frame, which axe cannot speak to.
AXE_RUN = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"], iframes: false });
  return violations.map((found) =>
    `${found.id}: ${found.help}: ${found.nodes.slice(0, 3).map((node) => node.html.slice(0, 160)).join(" | ")}`);
}"""
# In the other theme only the colours are others.
AXE_CONTRAST = AXE_RUN.replace("iframes: false", 'iframes: false, runOnly: ["color-contrast"]')
LIGHT: Literal["light"] = "light"
DARK: Literal["dark"] = "dark"
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT_TABLES = """() => [...document.querySelectorAll(".table")]
  .filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.outerHTML.slice(0, 120))"""
SMALL_TARGETS = """() => [...document.querySelectorAll("button, select, input:not([type=checkbox], [type=radio])")]
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 39.5)
  .map((each) => each.outerHTML.slice(0, 120))"""
# What looks the same with and without the focus, of all that can have it.
UNSEEN_FOCUS = """() => {
  const look = (element) => {
    const style = getComputedStyle(element);
    return [style.outline, style.boxShadow, style.borderColor, style.backgroundColor, style.textDecoration].join();
  };
  const found = [];
  for (const element of document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")) {
    if (!element.checkVisibility() || element.disabled) continue;
    element.blur();
    const before = look(element);
    element.focus({ focusVisible: true, preventScroll: true });
    if (document.activeElement !== element || look(element) === before) found.push(element.outerHTML.slice(0, 120));
    element.blur();
  }
  return found;
}"""

ROWS = sorted({row.path for row in rows()})
WITHOUT_LOGIN = ("/login", "/link/{token}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def paths(
    stack: PrivateStack, browser: Browser, states: dict[Role, StorageState], seeded: Seed
) -> dict[str, list[str]]:
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True)
    console = Console(browser, states)
    found = await places(await console.open("/", "admin"), seeded, os.environ | stack.variables)
    await console.close()
    return found


async def test_each_row_has_a_place(paths: dict[str, list[str]]) -> None:
    assert sorted(paths) == ROWS


@pytest.mark.parametrize("row", ROWS)
async def test_a_page_is_whole_at_both_widths_in_both_themes(
    console: Console, paths: dict[str, list[str]], row: str
) -> None:
    role: Role | None = None if row in WITHOUT_LOGIN else "admin"
    faults: list[str] = []
    for number, path in enumerate(paths[row]):
        page = await console.open(path, role, size=PHONE)
        await page.evaluate(AXE)
        faults += [f"{path}: {each}" for each in await _on_the_phone(page)]
        for size in (PHONE, DESK):
            await page.set_viewport_size({"width": size["width"], "height": size["height"]})
            for scheme, run in ((LIGHT, AXE_RUN), (DARK, AXE_CONTRAST)):
                await page.emulate_media(color_scheme=scheme)
                await page.screenshot(path=_picture(row, number, size["width"], scheme), full_page=True)
                faults += [f"{path} {size['width']} {scheme}: {each}" for each in await page.evaluate(run)]
        faults += [f"{path}: no focus seen: {each}" for each in await page.evaluate(UNSEEN_FOCUS)]
        await page.context.close()
    assert not faults, "\n".join(faults)


async def _on_the_phone(page: Page) -> list[str]:
    wide = await page.evaluate(TOO_WIDE)
    small, cut = await page.evaluate(SMALL_TARGETS), await page.evaluate(CUT_TABLES)
    headings = await page.locator("h1:visible").count()
    return [
        *([f"{wide} px too wide"] if wide > 0 else []),
        *([f"{headings} h1"] if headings != 1 else []),
        *(f"small: {each}" for each in small),
        *(f"cut: {each}" for each in cut),
    ]


@pytest.mark.parametrize("row", ROWS)
async def test_a_page_can_be_read_without_javascript(console: Console, paths: dict[str, list[str]], row: str) -> None:
    for path in paths[row]:
        page = await console.open(path, None if row in WITHOUT_LOGIN else "admin", size=PHONE, has_script=False)
        assert await page.locator("h1").count() == 1
        assert await page.locator("[data-with-script]:visible").count() == 0
        times = await page.locator("time").all_text_contents()
        assert all(text.strip() for text in times), "a time that only JavaScript would write"
        await page.context.close()


async def test_the_keyboard_comes_to_the_content_first_and_to_the_search_by_a_slash(console: Console) -> None:
    page = await console.open("/tasks")
    await page.keyboard.press("Tab")
    assert await page.locator(":focus").inner_text() == "Skip to the content"
    assert await page.locator(":focus").is_visible()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await page.keyboard.press("/")
    await expect(page.locator("input[type=search]")).to_be_focused()
    await page.locator("h1").click()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.keyboard.press("g")
    await page.keyboard.press("s")
    await page.wait_for_url("**/console/schedules")


async def test_what_the_pages_are_asked_for_is_found_where_it_is_wrong(console: Console) -> None:
    page = await console.open("/users", "admin", size=PHONE)
    await page.evaluate("""() => {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(`main::after { content: ""; display: block; width: 50rem; height: 1px }
        .table { width: 5rem } .table td { white-space: nowrap !important }
        main button { min-height: 9px !important; padding: 0 !important; line-height: 1 !important }
        .top a { outline: none !important; box-shadow: none !important } h1 { color: #999 !important }`);
      document.adoptedStyleSheets = [sheet];
      document.querySelector("main").append(document.createElement("input"));
    }""")
    await page.evaluate(AXE)
    told = " ".join([*await _on_the_phone(page), *await page.evaluate(UNSEEN_FOCUS), *await page.evaluate(AXE_RUN)])
    for fault in ("px too wide", "small: <button", "cut: <div", 'class="brand"', "color-contrast:", "label:"):
        assert fault in told
    assert any("color-contrast:" in each for each in await page.evaluate(AXE_CONTRAST))


async def test_what_a_browser_complains_of_is_heard(console: Console) -> None:
    page = await console.open("/account")
    await page.evaluate("""async () => {
      document.body.insertAdjacentHTML("beforeend", "<p style='color: red'>inline</p>");
      console.error("a word");
      await fetch("/console/nowhere");
      setTimeout(() => { throw new Error("a bug"); });
    }""")
    heard = console.complaints.all
    wanted = ("CSP: style-src", "a word", "/console/nowhere: 404", "a bug")
    await eventually("complaints", lambda: all(any(word in each for each in heard) for word in wanted))
    heard.clear()


def _picture(row: str, number: int, width: int, scheme: str) -> Path:
    name = re.sub(r"\W+", "-", row).strip("-") or "overview"
    return PICTURES / f"{name}{number or ''}-{width}-{scheme}.png"
