"""Who may ask for which page, tried on every row there is: a page that is added is tried without a line here."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from services.ingest.console.page import PROJECT_FIELD, ROLES, ROOT, Page, Role, is_at_least
from services.ingest.keyring import Keyring, NewKey
from services.ingest.store_keys import KeyStore
from tests.integration.console.conftest import SAME_ORIGIN, Rig, Visit
from tests.integration.console.task_events import one

OPEN = {
    ("GET", "/login"),
    ("POST", "/login"),
    ("GET", "/login/done"),
    ("GET", "/link/{token}"),
    ("POST", "/link/{token}"),
}
"""What needs no session. Another row here is a decision."""
MINE, THEIRS = "mine", "theirs"


class Silence(list[Any]):
    """What services say that do not answer."""

    def pop(self, *_: Any) -> Callable[[object], None]:
        return lambda _command: None


@pytest.fixture
def console(console: Rig) -> Rig:
    console.services.says = Silence()
    return console


def path_of(page: Page, id_: str = "") -> str:
    """With something in place of each name in braces; nothing there is of that id, unless one is given."""
    return re.sub(r"\{(\w+)\}", lambda name: id_ or (str(uuid4()) if name[1] == "id" else "example.com"), page.path)


async def status_of(
    visit: Visit,
    page: Page,
    path: str | None = None,
    headers: Mapping[str, str] = SAME_ORIGIN,
    fields: Mapping[str, str] | None = None,
) -> int:
    """Without reading the body: that of /live does not end."""
    path = path_of(page) if path is None else path
    url = ROOT + path.removeprefix("/") if path.startswith("/?") or path == "/" else ROOT + path
    asking = (
        visit.client.get(url, allow_redirects=False)
        if page.method == "GET"
        else visit.client.post(url, data={"csrf": visit.csrf, **(fields or {})}, headers=headers, allow_redirects=False)
    )
    async with asking as response:
        return response.status


async def wrong(
    pages: list[Page], ask: Callable[[Page], object], expected: Callable[[Page], set[int]]
) -> dict[str, int]:
    """The rows that answer otherwise than expected."""
    found = {}
    for page in pages:
        status = await ask(page)  # type: ignore[misc]
        if status not in expected(page):
            found[f"{page.method} {page.path}"] = status
    return found


def inside(console: Rig) -> list[Page]:
    return [page for page in console.app.pages if page.role is not None]


def posts(console: Rig) -> list[Page]:
    return [page for page in console.app.pages if page.method == "POST"]


async def test_what_needs_no_session_is_a_short_list(console: Rig) -> None:
    assert {(page.method, page.path) for page in console.app.pages if page.role is None} == OPEN
    assert len(inside(console)) > 50, "the rows of all pages"


async def test_a_viewer_changes_nothing_but_their_own_session_and_password(console: Rig) -> None:
    of_viewers = {page.path for page in posts(console) if page.role == "viewer"}
    assert of_viewers == {"/logout", "/project", "/account/password", "/account/logout-everywhere"}


async def test_who_may_what_and_what_cannot_be_taken_back_is_for_admins(console: Rig) -> None:
    of_admins = re.compile(r"/(users|keys|audit|signing-secret)(/.*)?|.*/(purge|limit)")
    others = {page.path for page in inside(console) if of_admins.fullmatch(page.path) and page.role != "admin"}
    assert others == set()


async def test_without_a_session_every_page_leads_to_the_log_in_and_nothing_is_done(console: Rig) -> None:
    visit = await console.visit()
    expected = {"GET": {303}, "POST": {401}}
    assert await wrong(inside(console), lambda page: status_of(visit, page), lambda page: expected[page.method]) == {}
    asked = await visit.get("/tasks?q=status:failed")
    assert asked.location == f"{ROOT}/login?next=/console/tasks?q%3Dstatus:failed"
    assert await console.audit() == []


async def test_with_a_made_up_session_neither(console: Rig) -> None:
    visit = await console.visit()
    visit.client.session.cookie_jar.update_cookies({"carillon": "made-up"}, visit.client.make_url("/"))
    expected = {"GET": {303}, "POST": {401}}
    assert await wrong(inside(console), lambda page: status_of(visit, page), lambda page: expected[page.method]) == {}


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_what_its_rows_say_and_nothing_above_it(console: Rig, role: Role) -> None:
    visit = await console.login(role)

    async def asked(page: Page) -> int:
        status = await status_of(visit, page)
        if page.path in {"/logout", "/account/logout-everywhere"}:
            again = await console.login(role)
            visit.client, visit.csrf = again.client, again.csrf
        return status

    def expected(page: Page) -> set[int]:
        assert page.role is not None
        let_in = {200, 303, 400, 404, 409, 422, 503}  # 503: of a service that is silent
        return let_in if is_at_least(role, page.role) else {403}

    assert await wrong(inside(console), asked, expected) == {}
    actions = {page.action for page in inside(console) if page.action and is_at_least(role, page.role or "admin")}
    assert {row["action"] for row in await console.audit()} <= actions


@pytest.mark.parametrize(
    "fields", [{"csrf": ""}, {"csrf": "made-up"}, {"csrf": "of another session"}], ids=lambda fields: fields["csrf"]
)
async def test_a_form_without_the_sessions_token_does_nothing(console: Rig, fields: dict[str, str]) -> None:
    visit = await console.login("admin")
    if fields["csrf"] == "of another session":
        fields = {"csrf": (await console.login("admin")).csrf}
    rows = [page for page in posts(console) if page.role is not None]
    assert await wrong(rows, lambda page: status_of(visit, page, fields=fields), lambda _: {403}) == {}
    assert await console.audit() == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "own"},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Origin": "own but for the port"},
        {},
    ],
    ids=str,
)
async def test_a_form_that_another_site_sent_does_nothing(console: Rig, headers: dict[str, str]) -> None:
    visit = await console.login("admin")
    host, port = visit.client.host, visit.client.port
    own = {"own": f"http://{host}:{port}", "own but for the port": f"http://{host}:1"}
    sent = {name: own.get(value, value) for name, value in headers.items()}
    assert await wrong(posts(console), lambda page: status_of(visit, page, headers=sent), lambda _: {403}) == {}
    assert await console.audit() == []


async def test_a_browser_that_says_only_the_origin_is_believed(console: Rig) -> None:
    """Over plain HTTP browsers leave Sec-Fetch-Site out."""
    visit = await console.login("viewer")
    origin = f"http://{visit.client.host}:{visit.client.port}"
    assert (await visit.post("/project", {"project": "default"}, headers={"Origin": origin})).status == 303


async def test_every_action_leaves_exactly_one_row_in_the_audit_log_with_what_came_of_it(console: Rig) -> None:
    found = {}
    for page in posts(console):
        if page.role is None:  # they are refused before, unless the link or the password is right
            continue
        visit, before = await console.login("admin", name := f"root-{uuid4().hex[:8]}"), len(await console.audit())
        await status_of(visit, page)
        rows = (await console.audit())[before:]
        told = [(row["action"], row["actor"]) for row in rows]
        if told != [(page.action, name)] or rows[0]["outcome"] in {None, "crashed"}:
            found[f"{page.method} {page.path}"] = [*told, *(row["outcome"] for row in rows)]
    assert found == {}


async def test_no_page_is_stored_or_framed_or_lets_a_script_in(console: Rig) -> None:
    visit, found = await console.login("admin"), {}
    for page in console.app.pages:
        if page.method == "POST" or page.path == "/live":
            continue
        answer = await visit.get(path_of(page))
        policy = answer.headers.get("Content-Security-Policy", "")
        if answer.status == 303:
            continue
        is_sandboxed = policy.endswith("; sandbox") and "script-src" not in policy  # a mail with its own styles
        is_strict = "default-src 'none'" in policy and "frame-ancestors" in policy
        if not (is_strict and (is_sandboxed or "unsafe" not in policy)):
            found[page.path] = policy
        elif answer.headers.get("Cache-Control") != "no-store":
            found[page.path] = answer.headers.get("Cache-Control", "")
    assert found == {}


# --- another project


async def test_a_page_of_a_project_of_others_is_none(console: Rig) -> None:
    visit = await console.login("operator", projects=[MINE])
    rows = [page for page in inside(console) if page.method == "GET" and is_at_least("operator", page.role or "admin")]
    asked = lambda page: status_of(visit, page, f"{path_of(page)}?project={THEIRS}")  # noqa: E731
    assert await wrong(rows, asked, lambda _: {404}) == {}


async def test_a_form_about_a_project_of_others_does_nothing(console: Rig) -> None:
    visit = await console.login("operator", projects=[MINE])
    rows = [page for page in inside(console) if page.method == "POST" and is_at_least("operator", page.role or "admin")]
    assert await wrong(rows, lambda page: status_of(visit, page, fields={PROJECT_FIELD: THEIRS}), lambda _: {404}) == {}
    assert await console.audit() == []


async def a_task(console: Rig) -> str:
    return str(await one(console.postgres, "failed", project=THEIRS))


async def a_key(console: Rig) -> str:
    keyring = Keyring(KeyStore(console.postgres), SystemClock())
    _text, key = await keyring.create(THEIRS, NewKey(name="theirs", scopes=("tasks:read",)), frozenset({"tasks:read"}))
    return str(key.id)


async def a_bulk(console: Rig) -> str:
    id_: UUID = new_id()
    async with console.postgres.acquire() as connection:
        columns = await connection.fetch(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'ingest'"
            " AND table_name = 'bulk' AND is_nullable = 'NO' AND column_default IS NULL"
        )
        known = {"id": f"'{id_}'", "project": f"'{THEIRS}'", "action": "'cancel'"}
        values = [known.get(name, _some(type_)) for name, type_ in columns]
        names = ", ".join(name for name, _ in columns)
        await connection.execute(f"INSERT INTO bulk ({names}) VALUES ({', '.join(values)})")
    return str(id_)


def _some(type_: str) -> str:
    return {"jsonb": "'{}'", "integer": "0", "bigint": "0", "text": "''", "boolean": "false", "bytea": "''"}.get(
        type_, "now()"
    )


@pytest.mark.parametrize(("of", "make"), [("/tasks/{id}", a_task), ("/keys/{id}", a_key), ("/bulk/{id}", a_bulk)])
async def test_an_object_of_another_project_is_not_there(console: Rig, of: str, make: Callable[[Rig], object]) -> None:
    id_ = str(await make(console))  # type: ignore[misc]
    rows = [page for page in inside(console) if page.path.startswith(of)]
    assert rows
    keyring = Keyring(KeyStore(console.postgres), SystemClock())
    for project in (MINE, THEIRS):  # which are there for an admin once they have a key
        await keyring.create(project, NewKey(name="a", scopes=("tasks:read",)), frozenset({"tasks:read"}))
    admin = await console.login("admin")
    fields = {PROJECT_FIELD: MINE, "overlap_s": "0", "when": "1h"}

    def of_mine(page: Page) -> object:
        path = path_of(page, id_) + (f"?project={MINE}" if page.method == "GET" else "")
        return status_of(admin, page, path, fields=fields)

    def of_theirs(page: Page) -> object:
        return status_of(admin, page, f"{path_of(page, id_)}?project={THEIRS}")

    # Of a task that ingest does not know the scheduler may, whose create is on the way; here it is silent.
    assert await wrong(rows, of_mine, lambda page: {303} if page.action == "task.cancel" else {404}) == {}
    assert "done" not in {row["outcome"] for row in await console.audit()}
    there = [page for page in rows if page.method == "GET"]
    assert await wrong(there, of_theirs, lambda _: {200, 409}) == {}
