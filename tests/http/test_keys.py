"""`/v1/keys`, and what a key may do, over real HTTP with a table of keys that is a dict."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from services.ingest.auth import ALL_SCOPES, Keys
from services.ingest.endpoint import Endpoint, caller_of, json_response
from services.ingest.http import Door, build_app
from services.ingest.key_door import KeyDoor
from services.ingest.key_limits import Allowance, Limit
from services.ingest.key_text import is_key, new_key
from services.ingest.keyring import Keyring
from services.ingest.problems import not_found
from services.ingest.store_keys import StoredKey
from tests.http.conftest import KEY, Client
from tests.unit.ingest.key_samples import FakeKeyStore, a_key

ADMIN = ("admin", "tasks:write")


class TaskDoor:
    """Something that a key opens."""

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(method="GET", path="/who", handler=self.who, scope="tasks:write", summary="", gives={200: str}),
            Endpoint(method="GET", path="/lost", handler=self.lost, scope="tasks:write", summary="", gives={200: str}),
        ]

    async def who(self, request: web.Request) -> web.Response:
        return json_response(caller_of(request).project)

    async def lost(self, request: web.Request) -> web.Response:
        raise not_found("It is lost")


@dataclass
class FakeLimits:
    allowance: Allowance | None = None
    asked: list[tuple[str, Limit]] = field(default_factory=list)

    async def take(self, key_id: str, limit: Limit) -> Allowance | None:
        self.asked.append((key_id, limit))
        return self.allowance


@pytest.fixture
def store() -> FakeKeyStore:
    return FakeKeyStore()


@pytest.fixture
def limits() -> FakeLimits:
    return FakeLimits()


@pytest.fixture
async def keys(store: FakeKeyStore, limits: FakeLimits) -> Keys:
    keys = Keys(KEY, store, limits)
    await keys.poll()
    return keys


@pytest.fixture
async def nobody(aiohttp_client: AiohttpClient, store: FakeKeyStore, keys: Keys) -> Client:
    clock = SystemClock()
    doors: list[Door] = [KeyDoor(Keyring(store, clock), clock), TaskDoor()]
    return await aiohttp_client(build_app(doors, keys, version="1", body_bytes_max=4096))


class Holder:
    """Whoever has the key `text`."""

    def __init__(self, client: Client, text: str) -> None:
        self._client = client
        self.text = text

    async def ask(self, method: str, path: str, body: Any = None, status: int | None = None) -> dict[str, Any]:
        """The answer's JSON, its status and headers beside it."""
        options = {} if body is None else {"json": body}
        headers = {"Authorization": f"Bearer {self.text}"}
        async with self._client.request(method, path, headers=headers, **options) as response:
            answer = await response.json()
            assert status is None or response.status == status, answer
            of_answer = answer if isinstance(answer, dict) else {"value": answer}
            return {**of_answer, "_status": response.status, "_headers": response.headers}

    async def makes(self, status: int = 201, **different: Any) -> dict[str, Any]:
        body = {"name": "of a test", "scopes": ["tasks:write"], **different}
        return await self.ask("POST", "/v1/keys", body, status)


@pytest.fixture
def owner(nobody: Client) -> Holder:
    """The holder of the bootstrap key."""
    return Holder(nobody, KEY)


@pytest.fixture
def admin(nobody: Client, store: FakeKeyStore) -> Holder:
    """An admin of the project `shop`."""
    return Holder(nobody, held(store, scopes=ADMIN))


def held(store: FakeKeyStore, **different: Any) -> str:
    text = new_key()
    store.put(a_key(text, **different))
    return text


# --- making one


async def test_a_key_is_shown_once_and_kept_as_a_digest(nobody: Client, admin: Holder, store: FakeKeyStore) -> None:
    made = await admin.makes(name="ci", expires_at="2035-01-01T00:00:00+01:00", per_s=2.5)
    assert is_key(made["key"])
    assert made["_headers"]["Cache-Control"] == "no-store"
    assert made["_headers"]["Location"] == f"/v1/keys/{made['id']}"
    expected = {
        "project": "shop",
        "name": "ci",
        "scopes": ["tasks:write"],
        "status": "active",
        "per_s": 2.5,
        "burst": 3,
        "expires_at": "2034-12-31T23:00:00.000Z",
        "revoked_at": None,
        "replaced_by": None,
        "last_used_at": None,
    }
    assert made == {**made, **expected}
    assert (await Holder(nobody, made["key"]).ask("GET", "/who", status=200))["value"] == "shop"
    shown = await admin.ask("GET", f"/v1/keys/{made['id']}", status=200)
    assert "key" not in shown
    assert made["key"] not in repr(store.keys)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "x" * 101}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"name": "a\x00b"}, "/name"),
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["tasks:write", "tasks:write"]}, "/scopes"),
        ({"scopes": ["tasks:fly"]}, "/scopes/0"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00"}, "/expires_at"),
        ({"expires_at": "never"}, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00Z"}, "/expires_at"),
        ({"per_s": 0}, "/per_s"),
        ({"per_s": -1}, "/per_s"),
        ({"per_s": 1e300}, "/per_s"),
        ({"burst": 5}, "/burst"),
        ({"per_s": 10, "burst": 9}, "/burst"),
        ({"per_s": 0.5, "burst": 0}, "/burst"),
        ({"project": "Shop"}, "/project"),
        ({"project": ""}, "/project"),
        ({"project": "x" * 65}, "/project"),
        ({"project": "a b"}, "/project"),
        ({"scope": ["tasks:write"]}, "/scope"),
    ],
)
async def test_what_is_wrong_with_a_new_key_is_named(
    owner: Holder, store: FakeKeyStore, body: dict[str, Any], pointer: str
) -> None:
    refused = await owner.makes(422, **body)
    assert [error["pointer"] for error in refused["errors"]] == [pointer]
    assert store.keys == {}


async def test_a_key_gives_no_scope_that_it_lacks(admin: Holder, store: FakeKeyStore) -> None:
    before = dict(store.keys)
    refused = await admin.makes(403, scopes=["tasks:write", "tasks:read"])
    assert "tasks:read" in refused["detail"]
    assert store.keys == before


async def test_only_the_bootstrap_key_may_name_another_project(nobody: Client, owner: Holder, admin: Holder) -> None:
    made = await owner.makes(project="new-project_1", scopes=list(ALL_SCOPES))
    assert made["project"] == "new-project_1"
    theirs = Holder(nobody, made["key"])
    assert (await theirs.makes())["project"] == "new-project_1"
    assert (await theirs.makes(project="new-project_1"))["project"] == "new-project_1"
    assert (await theirs.makes(403, project="shop"))["code"] == "forbidden"
    assert (await theirs.ask("GET", "/v1/keys?project=shop", status=403))["code"] == "forbidden"
    listed = await owner.ask("GET", "/v1/keys?project=new-project_1", status=200)
    assert len(listed["data"]) == 3
    assert (await owner.ask("GET", "/v1/keys", status=200))["data"] == []


async def test_a_project_has_so_many_keys_and_no_more(admin: Holder, store: FakeKeyStore) -> None:
    async def full(key: StoredKey) -> bool:
        return False

    store.add = full  # type: ignore[method-assign]
    assert (await admin.makes(409))["code"] == "too_many_keys"


# --- looking


async def test_keys_are_listed_newest_first_page_by_page(admin: Holder) -> None:
    ids = [(await admin.makes(name=f"number {number}"))["id"] for number in range(5)]
    [*_, own] = (await admin.ask("GET", "/v1/keys"))["data"]
    page, seen = "/v1/keys?limit=2", []
    while page:
        answer = await admin.ask("GET", page, status=200)
        assert len(answer["data"]) == 2
        seen += [key["id"] for key in answer["data"]]
        link = answer["_headers"].get("Link", "")
        assert (answer["next_cursor"] is None) == (not link)
        page = link.partition(">")[0].lstrip("<")
    assert seen == [*reversed(ids), own["id"]]


@pytest.mark.parametrize("query", ["limit=0", "limit=251", "limit=x", "cursor=x", "cursor=", "project=A", "sort=name"])
async def test_a_query_that_makes_no_sense_is_a_400(owner: Holder, query: str) -> None:
    refused = await owner.ask("GET", f"/v1/keys?{query}", status=400)
    assert query.partition("=")[0] in refused["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/rotate")])
async def test_a_key_of_another_project_is_not_there(
    admin: Holder, store: FakeKeyStore, method: str, path: str
) -> None:
    other = a_key(project="another", scopes=ADMIN)
    store.put(other)
    for id_ in (other.id, new_id(), "nonsense"):
        assert (await admin.ask(method, f"/v1/keys/{id_}{path}", status=404))["code"] == "not_found"
    assert store.keys[other.id] == other


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", ""), ("GET", f"/{new_id()}"), ("DELETE", f"/{new_id()}"), ("POST", f"/{new_id()}/rotate")],
)
async def test_keys_are_for_admins(nobody: Client, store: FakeKeyStore, method: str, path: str) -> None:
    scopes = tuple(ALL_SCOPES - {"admin"})
    refused = await Holder(nobody, held(store, scopes=scopes)).ask(method, f"/v1/keys{path}", status=403)
    assert "admin" in refused["detail"]


# --- ending one


async def test_a_revoked_key_is_refused_and_stays_in_the_list(
    nobody: Client, admin: Holder, store: FakeKeyStore, keys: Keys
) -> None:
    made = await admin.makes()
    holder = Holder(nobody, made["key"])
    await holder.ask("GET", "/who", status=200)
    revoked = await admin.ask("DELETE", f"/v1/keys/{made['id']}", status=200)
    assert revoked["status"] == "revoked"
    await keys.poll()
    assert (await holder.ask("GET", "/who"))["code"] == "unauthorized"
    again = await admin.ask("DELETE", f"/v1/keys/{made['id']}", status=200)
    assert again["revoked_at"] == revoked["revoked_at"]
    assert made["id"] in [key["id"] for key in (await admin.ask("GET", "/v1/keys"))["data"]]


async def test_rotation_gives_a_like_key_and_the_old_one_an_end(
    nobody: Client, admin: Holder, store: FakeKeyStore, keys: Keys
) -> None:
    old = await admin.makes(name="ci", per_s=3, burst=9, expires_at="2035-01-01T00:00:00Z")
    new = await admin.ask("POST", f"/v1/keys/{old['id']}/rotate", {"overlap_s": 100}, 201)
    assert new["key"] != old["key"]
    for name in ("project", "name", "scopes", "per_s", "burst", "expires_at"):
        assert new[name] == old[name]
    for each in (old, new):
        await Holder(nobody, each["key"]).ask("GET", "/who", status=200)
    ended = store.keys[UUID(old["id"])]
    assert str(ended.replaced_by) == new["id"]
    assert ended.expires_at is not None
    assert (ended.expires_at - store.keys[UUID(new["id"])].created_at).total_seconds() == 100


async def test_a_rotation_without_overlap_ends_the_old_key_now(nobody: Client, admin: Holder, keys: Keys) -> None:
    old = await admin.makes()
    await Holder(nobody, old["key"]).ask("GET", "/who", status=200)
    await admin.ask("POST", f"/v1/keys/{old['id']}/rotate", {"overlap_s": 0}, 201)
    await keys.poll()
    await Holder(nobody, old["key"]).ask("GET", "/who", status=401)


async def test_the_overlap_is_a_day_unless_said_otherwise(admin: Holder, store: FakeKeyStore) -> None:
    old = await admin.makes()
    new = await admin.ask("POST", f"/v1/keys/{old['id']}/rotate", status=201)
    ended = store.keys[UUID(old["id"])]
    assert ended.expires_at is not None
    assert (ended.expires_at - store.keys[UUID(new["id"])].created_at).total_seconds() == 86_400


@pytest.mark.parametrize("overlap_s", [-1, 30 * 86_400 + 1, 1e300, "1d"])
async def test_an_overlap_is_at_most_thirty_days(admin: Holder, overlap_s: Any) -> None:
    old = await admin.makes()
    refused = await admin.ask("POST", f"/v1/keys/{old['id']}/rotate", {"overlap_s": overlap_s}, 422)
    assert [error["pointer"] for error in refused["errors"]] == ["/overlap_s"]


async def test_a_key_is_rotated_once_and_its_successor_then(admin: Holder) -> None:
    """Else a repeated request would give the third key the end of the first."""
    old = await admin.makes()
    new = await admin.ask("POST", f"/v1/keys/{old['id']}/rotate", status=201)
    refused = await admin.ask("POST", f"/v1/keys/{old['id']}/rotate", status=409)
    assert refused["code"] == "key_rotated"
    assert new["id"] in refused["detail"]
    third = await admin.ask("POST", f"/v1/keys/{new['id']}/rotate", {"overlap_s": 0}, 201)
    assert third["expires_at"] is None


async def test_a_revoked_key_is_not_rotated(admin: Holder) -> None:
    old = await admin.makes()
    await admin.ask("DELETE", f"/v1/keys/{old['id']}", status=200)
    assert (await admin.ask("POST", f"/v1/keys/{old['id']}/rotate", status=409))["code"] == "key_ended"


async def test_a_key_with_more_rights_cannot_be_taken_over_by_rotating_it(admin: Holder, store: FakeKeyStore) -> None:
    mighty = a_key(scopes=tuple(ALL_SCOPES))
    store.put(mighty)
    assert (await admin.ask("POST", f"/v1/keys/{mighty.id}/rotate", status=403))["code"] == "forbidden"
    assert store.keys[mighty.id] == mighty


# --- Postgres away


async def test_without_postgres_keys_are_503_and_a_new_one_may_have_been_made(
    admin: Holder, store: FakeKeyStore
) -> None:
    await admin.ask("GET", "/v1/keys", status=200)  # now it is known
    store.is_away = True
    refused = await admin.makes(503)
    assert refused["_headers"]["Retry-After"] == "1"
    assert refused["code"] == "keys_unavailable"
    assert "GET /v1/keys" in refused["detail"]


async def test_the_401_is_the_same_bytes_whatever_the_reason(nobody: Client, store: FakeKeyStore) -> None:
    revoked = held(store, revoked_at=SystemClock().now())
    expired = held(store, expires_at=SystemClock().now())
    works = held(store)
    answers = set()
    for authorization in (
        None,
        "Bearer ",
        f"Bearer {new_key()}",
        "Bearer ck_malformed",
        f"Bearer {revoked}",
        f"Bearer {expired}",
        f"Basic {works}",
        works,
    ):
        headers = {"X-Request-Id": "the-same"} | ({"Authorization": authorization} if authorization else {})
        async with nobody.get("/who", headers=headers) as response:
            visible = [(name, value) for name, value in response.headers.items() if name != "Date"]
            answers.add((response.status, await response.read(), tuple(visible)))
    [(status, _body, answered)] = answers
    assert status == 401
    assert ("WWW-Authenticate", "Bearer") in answered


# --- rate limits


async def test_a_limited_key_is_told_of_its_limit_with_every_answer(
    nobody: Client, store: FakeKeyStore, limits: FakeLimits
) -> None:
    holder = Holder(nobody, held(store, per_s=5.0, burst=10))
    limits.allowance = Allowance(0, 9, 0)
    for path, status in (("/who", 200), ("/lost", 404), ("/v1/keys", 403)):
        answer = await holder.ask("GET", path, status=status)
        assert answer["_headers"]["RateLimit-Policy"] == '"key";q=10;w=2'
        assert answer["_headers"]["RateLimit"] == '"key";r=9;t=2'
        assert "Retry-After" not in answer["_headers"]
    assert {limit for _, limit in limits.asked} == {Limit(5.0, 10)}


async def test_above_its_limit_a_key_gets_429_and_the_seconds_to_wait(
    nobody: Client, store: FakeKeyStore, limits: FakeLimits
) -> None:
    limits.allowance = Allowance(1.2, 0, 1.2)
    answer = await Holder(nobody, held(store, per_s=0.5, burst=1)).ask("GET", "/who", status=429)
    assert answer["code"] == "rate_limited"
    assert answer["_headers"]["Retry-After"] == "2"
    assert answer["_headers"]["RateLimit"] == '"key";r=0;t=2'


async def test_a_key_without_a_limit_and_one_whose_limit_nobody_knows_are_let_in(
    nobody: Client, store: FakeKeyStore, limits: FakeLimits
) -> None:
    free = await Holder(nobody, held(store)).ask("GET", "/who", status=200)
    assert limits.asked == []
    unasked = await Holder(nobody, held(store, per_s=1.0, burst=1)).ask("GET", "/who", status=200)
    for answer in (free, unasked):
        assert "RateLimit" not in answer["_headers"]


async def test_limits_of_keys_at_the_same_time_do_not_mix(
    nobody: Client, store: FakeKeyStore, limits: FakeLimits
) -> None:
    texts = [held(store, per_s=1.0, burst=number) for number in range(1, 6)]

    async def take(key_id: str, limit: Limit) -> Allowance | None:
        await asyncio.sleep(0.01)
        return Allowance(0, limit.burst, 0)

    limits.take = take  # type: ignore[method-assign]
    answers = await asyncio.gather(*(Holder(nobody, text).ask("GET", "/who", status=200) for text in texts))
    assert [answer["_headers"]["RateLimit"] for answer in answers] == [f'"key";r={n};t={n}' for n in range(1, 6)]
