"""`/v1/targets` and `/v1/signing-secret` over real HTTP; tables are dicts, and dispatchers answer as told."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from pytest_aiohttp.plugin import AiohttpClient

from libs.common.contracts import ControlAnswer, SetControl, SigningRule, TargetRule
from libs.common.ids import new_id
from libs.common.postgres import PostgresAway
from libs.common.publisher import PublishUnknown
from libs.common.signing import secret, whsec
from services.ingest.auth import Keys
from services.ingest.control_door import TargetDoor
from services.ingest.http import Door, build_app
from services.ingest.signing_door import SigningDoor
from services.ingest.store_control import Change, HeldRule, Signing
from tests.http.conftest import KEY, Client
from tests.http.test_keys import Holder, held
from tests.unit.ingest.key_samples import NOW, FakeKeyStore, HandClock

MASTER_KEY = "0123456789abcdef0123456789abcdef"


@dataclass
class FakeRules:
    rules: dict[tuple[str, str], HeldRule] = field(default_factory=dict)
    signings: dict[str, Signing] = field(default_factory=dict)
    is_full: bool = False
    is_away: bool = False

    async def pause(self, change: Change, host: str, *, is_paused: bool) -> HeldRule | None:
        return self._set(change, host, is_paused=is_paused)

    async def limit(self, change: Change, host: str, per_s: float | None, burst: int) -> HeldRule | None:
        return self._set(change, host, per_s=per_s, burst=burst)

    async def target(self, project: str, host: str) -> HeldRule | None:
        return self.rules.get((project, host))

    async def targets(self, project: str, after: str, limit: int) -> list[HeldRule]:
        hosts = sorted(host for owner, host in self.rules if owner == project and host > after)
        return [self.rules[project, host] for host in hosts[:limit]]

    async def signing(self, project: str) -> Signing:
        return self.signings.get(project, Signing())

    async def rotate(self, change: Change, previous_until: datetime, *, is_forced: bool) -> SigningRule | None:
        now = self.signings.get(change.project, Signing())
        if now.previous_until is not None and now.previous_until > change.at and not is_forced:
            return None
        self.signings[change.project] = Signing(now.version + 1, previous_until, change.at)
        return SigningRule(
            project=change.project, command_id=new_id(), version=now.version + 1, previous_until=previous_until
        )

    def _set(self, change: Change, host: str, **values: Any) -> HeldRule | None:
        if self.is_away:
            raise PostgresAway("away")
        if self.is_full:
            return None
        before = self.rules.get((change.project, host))
        old = {} if before is None else {"is_paused": before.rule.is_paused, "per_s": before.rule.per_s}
        rule = TargetRule(project=change.project, host=host, command_id=new_id(), **{**old, **values})
        self.rules[change.project, host] = HeldRule(rule, change.at, change.by)
        return self.rules[change.project, host]


@dataclass
class FakeDispatchers:
    is_silent: bool = False
    error: Exception | None = None
    told: list[SetControl] = field(default_factory=list)

    async def set_control(self, command: SetControl) -> ControlAnswer | None:
        self.told.append(command)
        if self.error is not None:
            raise self.error
        return None if self.is_silent else ControlAnswer(command_id=command.command_id)


@pytest.fixture
def rules() -> FakeRules:
    return FakeRules()


@pytest.fixture
def dispatchers() -> FakeDispatchers:
    return FakeDispatchers()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store() -> FakeKeyStore:
    return FakeKeyStore()


@pytest.fixture
def master_key() -> str | None:
    return MASTER_KEY


@pytest.fixture
async def nobody(
    aiohttp_client: AiohttpClient,
    rules: FakeRules,
    dispatchers: FakeDispatchers,
    clock: HandClock,
    store: FakeKeyStore,
    master_key: str | None,
) -> Client:
    doors: list[Door] = [
        TargetDoor(rules, dispatchers, clock),
        SigningDoor(rules, dispatchers, clock, master_key),
    ]
    return await aiohttp_client(build_app(doors, Keys(KEY, store), version="1", body_bytes_max=4096))


@pytest.fixture
def owner(nobody: Client) -> Holder:
    return Holder(nobody, KEY)


# --- targets


async def test_a_pause_is_told_to_the_dispatchers_and_shown(owner: Holder, dispatchers: FakeDispatchers) -> None:
    paused = await owner.ask("POST", "/v1/targets/API.example.com:8443/pause", status=200)
    [told] = dispatchers.told
    [rule] = told.targets
    assert (rule.project, rule.host, rule.is_paused) == ("default", "api.example.com:8443", True)
    assert told.command_id == rule.command_id
    assert not told.is_all
    expected = {
        "host": "api.example.com:8443",
        "is_paused": True,
        "per_s": None,
        "burst": None,
        "breaker": {"state": "closed", "until": None},
        "changed_at": "2027-03-01T09:00:00.000Z",
        "changed_by": "bootstrap",
    }
    assert paused == {**paused, **expected}
    shown = await owner.ask("GET", "/v1/targets/api.example.com:8443", status=200)
    assert shown == {**shown, **expected}
    resumed = await owner.ask("POST", "/v1/targets/api.example.com:8443/resume", status=200)
    assert resumed["is_paused"] is False


async def test_a_limit_leaves_a_pause_and_a_pause_a_limit(owner: Holder) -> None:
    await owner.ask("POST", "/v1/targets/h.example/pause", status=200)
    limited = await owner.ask("PUT", "/v1/targets/h.example", {"per_s": 2, "burst": 3}, 200)
    assert (limited["is_paused"], limited["per_s"], limited["burst"]) == (True, 2.0, 3)
    resumed = await owner.ask("POST", "/v1/targets/h.example/resume", status=200)
    assert (resumed["is_paused"], resumed["per_s"]) == (False, 2.0)
    free = await owner.ask("PUT", "/v1/targets/h.example", {"per_s": None}, 200)
    assert (free["per_s"], free["burst"]) == (None, None)


@pytest.mark.parametrize(
    ("is_silent", "error"), [(True, None), (False, PublishUnknown("no confirm"))], ids=["no answer", "no confirm"]
)
async def test_a_change_that_nobody_confirms_is_202_and_stands(
    owner: Holder, rules: FakeRules, dispatchers: FakeDispatchers, is_silent: bool, error: Exception | None
) -> None:
    dispatchers.is_silent, dispatchers.error = is_silent, error
    assert (await owner.ask("POST", "/v1/targets/h.example/pause", status=202))["is_paused"] is True
    assert rules.rules["default", "h.example"].rule.is_paused
    await owner.ask("PUT", "/v1/targets/h.example", {"per_s": 1}, 202)
    assert (await owner.ask("POST", "/v1/signing-secret/rotate", status=202))["version"] == 2


async def test_without_postgres_nothing_is_changed_and_nobody_told(
    owner: Holder, rules: FakeRules, dispatchers: FakeDispatchers
) -> None:
    rules.is_away = True
    refused = await owner.ask("POST", "/v1/targets/h.example/pause", status=503)
    assert refused["_headers"]["Retry-After"] == "1"
    assert dispatchers.told == []


@pytest.mark.parametrize(
    ("asked", "host"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM:80", "api.example.com:80"),
        ("[2001:DB8::1]:8080", "[2001:db8::1]:8080"),
        ("10.0.0.1", "10.0.0.1"),
        ("bücher.example", "bücher.example"),
    ],
)
async def test_a_host_is_taken_as_urls_write_it(owner: Holder, asked: str, host: str) -> None:
    assert (await owner.ask("POST", f"/v1/targets/{quote(asked, safe='')}/pause", status=200))["host"] == host


@pytest.mark.parametrize(
    "asked",
    [
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "user@a",
        "a%41",
        "https://a",
        ":80",
        "a:x",
        "a:99999",
        "[::1",
        "a\nb",
        "a\x00b",
        "x" * 262,
        "\\",
        "a\u200bb",
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PUT", ""), ("POST", "/pause"), ("POST", "/resume")])
async def test_what_is_no_host_is_a_422(owner: Holder, rules: FakeRules, asked: str, method: str, path: str) -> None:
    body = {"per_s": 1} if method == "PUT" else None
    refused = await owner.ask(method, f"/v1/targets/{quote(asked, safe='')}{path}", body, 422)
    assert [error["code"] for error in refused["errors"]] == ["bad_host"]
    assert rules.rules == {}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/per_s"),
        ({"per_s": 0}, "/per_s"),
        ({"per_s": -1}, "/per_s"),
        ({"per_s": 1e9}, "/per_s"),
        ({"per_s": "2"}, "/per_s"),
        ({"per_s": 1, "burst": 0}, "/burst"),
        ({"per_s": 1, "burst": 1.5}, "/burst"),
        ({"per_s": 1, "paused": True}, "/paused"),
    ],
)
async def test_what_is_wrong_with_a_limit_is_named(owner: Holder, body: dict[str, Any], pointer: str) -> None:
    refused = await owner.ask("PUT", "/v1/targets/h.example", body, 422)
    assert [error["pointer"] for error in refused["errors"]] == [pointer]


async def test_too_many_hosts_are_a_409(owner: Holder, rules: FakeRules, dispatchers: FakeDispatchers) -> None:
    rules.is_full = True
    assert (await owner.ask("POST", "/v1/targets/h.example/pause", status=409))["code"] == "too_many_targets"
    assert dispatchers.told == []


async def test_targets_are_listed_by_host_page_by_page(owner: Holder) -> None:
    hosts = ["b.example", "a.example", "c.example:80", "bücher.example"]
    for host in hosts:
        await owner.ask("POST", f"/v1/targets/{quote(host)}/pause", status=200)
    page, seen = "/v1/targets?limit=2", []
    while page:
        answer = await owner.ask("GET", page, status=200)
        assert len(answer["data"]) == 2
        seen += [target["host"] for target in answer["data"]]
        page = answer["_headers"].get("Link", "").partition(">")[0].lstrip("<")
    assert seen == sorted(hosts)


@pytest.mark.parametrize("query", ["limit=0", "limit=251", "cursor=x", "cursor=ff", "host=a"])
async def test_a_query_that_makes_no_sense_is_a_400(owner: Holder, query: str) -> None:
    await owner.ask("GET", f"/v1/targets?{query}", status=400)


async def test_an_open_breaker_is_shown_with_its_time(owner: Holder, rules: FakeRules) -> None:
    rule = TargetRule(project="default", host="h.example", command_id=new_id(), is_paused=True)
    rules.rules["default", "h.example"] = HeldRule(rule, NOW, "bootstrap", NOW + timedelta(seconds=5))
    shown = await owner.ask("GET", "/v1/targets/h.example", status=200)
    assert shown["breaker"] == {"state": "open", "until": "2027-03-01T09:00:05.000Z"}


async def test_what_another_project_has_set_is_not_there(
    nobody: Client, owner: Holder, store: FakeKeyStore, rules: FakeRules
) -> None:
    await owner.ask("POST", "/v1/targets/h.example/pause", status=200)
    other = Holder(nobody, held(store, scopes=("tasks:read", "tasks:write")))
    assert (await other.ask("GET", "/v1/targets/h.example", status=404))["code"] == "not_found"
    assert (await other.ask("GET", "/v1/targets", status=200))["data"] == []
    await other.ask("POST", "/v1/targets/h.example/resume", status=200)
    assert rules.rules["default", "h.example"].rule.is_paused


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/targets", "tasks:read"),
        ("GET", "/v1/targets/h.example", "tasks:read"),
        ("POST", "/v1/targets/h.example/pause", "tasks:write"),
        ("POST", "/v1/targets/h.example/resume", "tasks:write"),
        ("PUT", "/v1/targets/h.example", "admin"),
        ("GET", "/v1/signing-secret", "admin"),
        ("POST", "/v1/signing-secret/rotate", "admin"),
    ],
)
async def test_each_needs_its_own_scope(
    nobody: Client, store: FakeKeyStore, method: str, path: str, scope: str
) -> None:
    others = tuple({"tasks:read", "tasks:write", "schedules:write", "schedules:read", "admin"} - {scope})
    refused = await Holder(nobody, held(store, scopes=others)).ask(method, path, status=403)
    assert scope in refused["detail"]


# --- the signing secret


async def test_a_project_that_never_rotated_has_version_one(owner: Holder) -> None:
    shown = await owner.ask("GET", "/v1/signing-secret", status=200)
    assert shown["secret"] == whsec(secret(MASTER_KEY, "default", 1))
    assert (shown["version"], shown["previous"], shown["changed_at"]) == (1, None, None)
    assert shown["_headers"]["Cache-Control"] == "no-store"


async def test_a_rotation_shows_both_secrets_until_its_overlap_is_over(
    owner: Holder, clock: HandClock, dispatchers: FakeDispatchers
) -> None:
    rotated = await owner.ask("POST", "/v1/signing-secret/rotate", {"overlap_s": 60}, 200)
    [rule] = dispatchers.told[0].signing
    assert (rule.project, rule.version, rule.previous_until) == ("default", 2, NOW + timedelta(seconds=60))
    both = {
        "version": 2,
        "secret": whsec(secret(MASTER_KEY, "default", 2)),
        "previous": {
            "version": 1,
            "secret": whsec(secret(MASTER_KEY, "default", 1)),
            "until": "2027-03-01T09:01:00.000Z",
        },
    }
    assert rotated == {**rotated, **both}
    clock.passed_s = 59.9
    shown = await owner.ask("GET", "/v1/signing-secret", status=200)
    assert shown == {**shown, **both}
    clock.passed_s = 60
    assert (await owner.ask("GET", "/v1/signing-secret", status=200))["previous"] is None


async def test_the_overlap_is_a_day_unless_said_otherwise(owner: Holder) -> None:
    rotated = await owner.ask("POST", "/v1/signing-secret/rotate", status=200)
    assert rotated["previous"]["until"] == "2027-03-02T09:00:00.000Z"


@pytest.mark.parametrize("overlap_s", [-0.1, 30 * 86_400 + 1, "1d"])
async def test_an_overlap_is_at_most_thirty_days(owner: Holder, overlap_s: Any) -> None:
    refused = await owner.ask("POST", "/v1/signing-secret/rotate", {"overlap_s": overlap_s}, 422)
    assert [error["pointer"] for error in refused["errors"]] == ["/overlap_s"]


async def test_a_repeated_rotation_does_not_take_the_first_secret_away(owner: Holder, clock: HandClock) -> None:
    """Only two are ever in use, so a second rotation within the overlap would cut receivers off."""
    await owner.ask("POST", "/v1/signing-secret/rotate", {"overlap_s": 60}, 200)
    refused = await owner.ask("POST", "/v1/signing-secret/rotate", {"overlap_s": 60}, 409)
    assert refused["code"] == "rotation_not_over"
    assert "2027-03-01T09:01:00.000Z" in refused["detail"]
    assert (await owner.ask("GET", "/v1/signing-secret"))["version"] == 2
    forced = await owner.ask("POST", "/v1/signing-secret/rotate", {"overlap_s": 60, "force": True}, 200)
    assert (forced["version"], forced["previous"]["version"]) == (3, 2)
    clock.passed_s = 61
    assert (await owner.ask("POST", "/v1/signing-secret/rotate", {"overlap_s": 0}, 200))["previous"] is None


@pytest.mark.parametrize("master_key", [None])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/rotate")])
async def test_without_the_master_key_the_setting_is_named_and_nothing_rotated(
    owner: Holder, rules: FakeRules, method: str, path: str
) -> None:
    refused = await owner.ask(method, f"/v1/signing-secret{path}", status=409)
    assert refused["code"] == "signing_key_not_set"
    assert "CARILLON_SIGNING_MASTER_KEY" in refused["detail"]
    assert rules.signings == {}
