"""In and out, by what a person clicks."""

from tests.browser.conftest import PASSWORD, URL, Console


async def test_somebody_logs_in_by_the_login_page_to_where_they_wanted_to_go_and_out_again(console: Console) -> None:
    page = await console.open("/tasks", None)
    await page.get_by_label("Name").fill("otto")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await page.wait_for_url(f"{URL}/console/tasks")
    assert await page.get_by_role("link", name="otto").is_visible()
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url(f"{URL}/console/login?told=out")
    await page.goto("/console/tasks")
    assert page.url.startswith(f"{URL}/console/login")


async def test_a_used_link_works_no_more_and_says_so(console: Console, first_link: str) -> None:
    console.complaints.expected = {410}
    page = await console.open(first_link, None)
    assert "does not work any more" in await page.locator("main").inner_text()
