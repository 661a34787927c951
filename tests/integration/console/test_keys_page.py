"""API keys in the console: made, shown once, rotated and revoked, as by the API."""

import re
from datetime import timedelta
from uuid import UUID

import pytest

from libs.common.clock import SystemClock
from services.ingest.auth import ALL_SCOPES
from services.ingest.console.keys import PAGE
from services.ingest.key_text import digest, is_key
from services.ingest.keyring import Keyring, NewKey
from services.ingest.store_keys import KeyStore, StoredKey
from tests.integration.console.conftest import Answer, Rig

TEXT = re.compile(r'<pre id="key">(.+?)</pre>')
FORM = {"project": "default", "name": "ci", "scopes": "tasks:write", "days": "", "per_s": "", "burst": ""}


@pytest.fixture
def store(console: Rig) -> KeyStore:
    return KeyStore(console.postgres)


def text_in(answer: Answer) -> str:
    assert answer.status == 200, answer.text
    found = TEXT.search(answer.text)
    assert found, answer.text
    return found[1]


async def a_key(store: KeyStore, name: str = "ci", project: str = "default") -> StoredKey:
    new = NewKey(name=name, scopes=("tasks:read", "admin"), per_s=2.5)
    _text, key = await Keyring(store, SystemClock()).create(project, new, ALL_SCOPES)
    return key


async def the_key(store: KeyStore, id_: UUID) -> StoredKey:
    key = await store.show("default", id_)
    assert key is not None
    return key


async def test_a_key_is_shown_once_and_works_as_it_was_asked_for(console: Rig, store: KeyStore) -> None:
    admin = await console.login("admin", "root")
    answer = await admin.post(
        "/keys",
        [("project", "default"), ("name", "ci & <b>"), ("scopes", "tasks:write"), ("scopes", "schedules:read"),
         ("days", "30"), ("per_s", "2.5"), ("burst", "10")],
    )  # fmt: skip
    text = text_in(answer)
    assert is_key(text)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "ci &amp; &lt;b&gt;" in answer.text

    [key] = await store.find([digest(text)])
    assert (key.project, key.name, key.scopes) == ("default", "ci & <b>", ("tasks:write", "schedules:read"))
    assert (key.per_s, key.burst) == (2.5, 10)
    assert key.expires_at is not None
    assert abs(key.expires_at - SystemClock().now() - timedelta(days=30)) < timedelta(minutes=1)

    listed = await admin.get("/keys")
    assert text not in listed.text
    assert str(key.id) in listed.text
    [row] = await console.audit()
    assert (row["action"], row["object"], row["outcome"]) == ("key.create", str(key.id), "done")
    assert text not in row["detail"]


async def test_a_key_of_a_new_project_makes_it_exist(console: Rig, store: KeyStore) -> None:
    admin = await console.login("admin", "root")
    text_in(await admin.post("/keys", FORM | {"project": "shop"}))
    console.app.guard._projects = (float("-inf"), [])  # what is believed for ten seconds
    assert "API keys of shop" in (await admin.get("/keys?project=shop")).text


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("name", "", "write 1 to 100 characters"),
        ("name", "x" * 101, "write 1 to 100 characters"),
        ("scopes", "everything", "choose from tasks:write"),
        ("project", "No Such", "is no name of a project"),
        ("per_s", "fast", "is no number"),
        ("per_s", "nan", "is no number"),
        ("per_s", "0", "requests a second"),
        ("burst", "5", "means nothing without per_s"),
        ("days", "7000", "is none of the choices"),
    ],
)
async def test_what_is_wrong_is_told_beside_its_field_and_what_was_typed_stays(
    console: Rig, store: KeyStore, field: str, value: str, told: str
) -> None:
    admin = await console.login("admin", "root")
    answer = await admin.post("/keys", FORM | {field: value})
    assert answer.status == 422
    assert re.search(rf'class="fault">[^<]*{re.escape(told)}', answer.text), answer.text
    if field not in {"scopes", "days"}:
        assert f'value="{value}"' in answer.text
    assert await store.page("default", None, 10) == []
    assert [row["outcome"] for row in await console.audit()] == ["invalid_request"]


async def test_no_scope_at_all_is_a_fault(console: Rig) -> None:
    admin = await console.login("admin", "root")
    answer = await admin.post("/keys", {name: value for name, value in FORM.items() if name != "scopes"})
    assert answer.status == 422
    assert "name at least one scope" in answer.text


async def test_a_rotated_key_has_a_successor_like_it_and_an_end(console: Rig, store: KeyStore) -> None:
    admin, old = await console.login("admin", "root"), await a_key(store)
    text = text_in(await admin.post(f"/keys/{old.id}/rotate", {"overlap_s": "3600"}))

    [new] = await store.find([digest(text)])
    assert (new.name, new.scopes, new.per_s, new.burst) == (old.name, old.scopes, old.per_s, old.burst)
    old = await the_key(store, old.id)
    assert old.replaced_by == new.id
    assert old.expires_at is not None
    assert abs(old.expires_at - SystemClock().now() - timedelta(hours=1)) < timedelta(minutes=1)
    [row] = await console.audit()
    assert (row["action"], row["outcome"]) == ("key.rotate", "done")

    assert (await admin.post(f"/keys/{old.id}/rotate", {"overlap_s": "3600"})).status == 409
    assert (await admin.post(f"/keys/{new.id}/rotate", {"overlap_s": "1e9"})).status == 422


async def test_a_revoked_key_is_told_to_be(console: Rig, store: KeyStore) -> None:
    admin, key = await console.login("admin", "root"), await a_key(store)
    told = await admin.follow(await admin.post(f"/keys/{key.id}/revoke"))
    assert "is refused everywhere within two seconds" in told.text
    assert "revoked" in told.text
    assert f"/keys/{key.id}/revoke" not in told.text, "it cannot be revoked again"
    assert (await the_key(store, key.id)).revoked_at is not None


async def test_older_keys_are_on_the_next_page_and_each_on_one(console: Rig, store: KeyStore) -> None:
    keys = [await a_key(store, f"key-{number}") for number in range(PAGE + 3)]
    admin = await console.login("admin", "root")
    first = await admin.get("/keys")
    older = re.search(r'href="/console(/keys\?cursor=[^"]+)"', first.text)
    assert older
    second = await admin.get(older[1])
    shown = [re.findall(r'<small class="muted">([0-9a-f-]{36})</small>', page.text) for page in (first, second)]
    assert [id_ for page in shown for id_ in page] == [str(key.id) for key in reversed(keys)]
    assert [len(page) for page in shown] == [PAGE, 3]
    assert 'rel="next"' not in second.text
    assert (await admin.get("/keys?cursor=nonsense")).status == 400
