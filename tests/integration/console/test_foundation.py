"""What holds for every page: the headers, the files, the way from an error to a page."""

import pytest

from libs.common.postgres import PostgresAway
from libs.common.redis import RedisAway
from services.ingest.console.page import ROOT
from services.ingest.console.render import STATIC, static_path
from services.ingest.console.sessions import Flash, Sessions
from services.ingest.store_audit import AuditStore
from tests.integration.console.conftest import Rig


async def test_files_are_served_under_a_path_that_changes_with_their_content(console: Rig) -> None:
    visit = await console.visit()

    for file in STATIC.iterdir():
        answer = await visit.get(static_path(file.name).removeprefix(ROOT))
        assert answer.status == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_page_of_another_release_finds_the_file_of_this_one(console: Rig) -> None:
    answer = await (await console.visit()).get("/static/0123456789ab/console.css")

    assert (answer.status, answer.location) == (307, static_path("console.css"))


async def test_no_file_outside_the_folder_is_served(console: Rig) -> None:
    visit = await console.visit()

    for name in ("..%2Frender.py", "%2e%2e", "nothing.js", "..%5Crender.py"):
        assert (await visit.get(f"/static/x/{name}")).status == 404


async def test_an_unknown_page_is_a_page_that_says_so(console: Rig) -> None:
    answer = await (await console.login("viewer")).get("/nowhere")

    assert answer.status == 404
    assert "There is no such page" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_what_is_under_the_api_is_still_told_in_json(console: Rig) -> None:
    visit = await console.visit()
    async with visit.client.get("/v1/nothing") as response:
        assert response.content_type == "application/problem+json"


async def test_the_choice_of_a_project_holds_for_the_session(console: Rig) -> None:
    visit = await console.login("viewer", projects=["shop", "billing"])

    before = await visit.get("/nowhere")
    chosen = await visit.post("/project", {"project": "shop"})
    after = await visit.get("/nowhere")

    assert "<option selected>billing</option>" in before.text
    assert chosen.status == 303
    assert "<option selected>shop</option>" in after.text


async def test_a_project_of_others_cannot_be_chosen(console: Rig) -> None:
    visit = await console.login("viewer", projects=["shop"])

    assert (await visit.post("/project", {"project": "billing"})).status == 404
    [row] = await console.audit()
    assert (row["action"], row["object"], row["outcome"]) == ("project.choose", "billing", "not_found")


async def test_a_form_is_about_the_project_that_its_page_showed(console: Rig) -> None:
    visit = await console.login("viewer", projects=["shop", "billing"])
    form = await visit.get("/nowhere")
    await visit.post("/project", {"project": "shop"})  # in another tab

    assert 'name="of_project" value="billing"' in form.text
    await visit.post("/project", {"project": "shop", "of_project": "billing"})

    assert [row["project"] for row in await console.audit()] == ["billing", "billing"]


async def test_a_form_cannot_be_about_a_project_of_others(console: Rig) -> None:
    visit = await console.login("viewer", projects=["shop"])

    assert (await visit.post("/project", {"project": "shop", "of_project": "billing"})).status == 404
    assert await console.audit() == []


async def test_an_action_whose_outcome_cannot_be_written_is_done_all_the_same(
    console: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise PostgresAway("a test")

    visit = await console.login("viewer", projects=["shop", "billing"])
    monkeypatch.setattr(AuditStore, "end", away)

    assert (await visit.post("/project", {"project": "shop"})).status == 303
    [row] = await console.audit()
    assert (row["action"], row["outcome"]) == ("project.choose", None)


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"name=\xff\xfe"),
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\nnonsense"),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused_and_is_no_fault_of_ours(
    console: Rig, media_type: str, body: bytes
) -> None:
    visit = await console.visit()
    headers = {"Sec-Fetch-Site": "same-origin", "Content-Type": media_type}

    async with visit.client.post("/console/login", data=body, headers=headers) as response:
        assert response.status in {400, 401, 422}


async def test_a_session_that_has_ended_is_not_brought_back_by_a_request_under_way(console: Rig) -> None:
    visit = await console.login("viewer")
    [cookie] = list(visit.client.session.cookie_jar)
    sessions = console.app.guard.sessions
    under_way = await sessions.find(cookie.value)
    assert under_way is not None

    await visit.post("/logout")
    await sessions.tell(under_way, Flash("too late"))

    assert await sessions.find(cookie.value) is None


async def test_what_was_done_is_done_though_redis_is_gone_before_it_is_told(
    console: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise RedisAway("a test")

    visit = await console.login("admin", "ada")
    monkeypatch.setattr(Sessions, "tell", away)
    answer = await visit.post(f"/users/{visit.user_id}/logout")

    assert (answer.status, answer.location) == (303, f"{ROOT}/users/{visit.user_id}")
    [row] = await console.audit()
    assert row["outcome"] == "done"


@pytest.mark.parametrize("origin", ["null", "http://[", "", "http://127.0.0.1:1", "http://evil.example"])
async def test_an_origin_that_is_not_ours_is_refused(console: Rig, origin: str) -> None:
    visit = await console.login("viewer", projects=["shop"])

    assert (await visit.post("/project", {"project": "shop"}, headers={"Origin": origin})).status == 403


async def test_our_own_origin_will_do_where_a_browser_says_no_more(console: Rig) -> None:
    visit = await console.login("viewer", projects=["shop"])
    origin = str(visit.client.make_url("/").origin())

    assert (await visit.post("/project", {"project": "shop"}, headers={"Origin": origin})).status == 303
