"""Who may use the console: the first admin, invitations, roles, and that an admin is always left."""

import asyncio
import re
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest
from aiohttp.test_utils import TestClient, TestServer

from libs.common.clock import SystemClock
from libs.common.ids import new_id
from services.ingest.auth import Keys
from services.ingest.console import throttle
from services.ingest.console.page import ROOT
from services.ingest.console.user_text import new_link
from services.ingest.http import build_app
from services.ingest.store_users import USERS_MAX, NewUser, UserStore
from tests.collector import Recorder
from tests.integration.console.conftest import KEY, Answer, Rig, Visit
from tests.integration.console.users import PASSWORD, is_in, log_in, with_password

NEW = "four green bottles"
LINK = re.compile(r'<pre id="link">(.+?)</pre>')


@pytest.fixture
def users(console: Rig) -> UserStore:
    return UserStore(console.postgres)


def link_in(answer: Answer) -> str:
    """Its path below /console."""
    assert answer.status == 200, answer.text
    found = LINK.search(answer.text)
    assert found, answer.text
    return found[1].partition(ROOT)[2]


async def a_link(users: UserStore, user_id: UUID | None = None, *, lives: timedelta = timedelta(hours=24)) -> str:
    """Its path below /console; without a user, one that makes the first admin."""
    link, now = new_link(), SystemClock().now()
    if user_id is None:
        assert await users.add_first_link(link.digest, now, now + lives)
    else:
        await users.add_link(link.digest, user_id, now, now + lives)
    return link.path.removeprefix(ROOT)


async def use(visit: Visit, path: str, name: str = "", new: str = NEW, again: str | None = None) -> Answer:
    return await visit.post(path, {"name": name, "new": new, "again": new if again is None else again})


async def the_user(users: UserStore, name: str) -> UUID:
    user = await users.by_name(name)
    assert user is not None
    return user.id


# --- the first admin


async def test_a_link_makes_the_first_admin_who_is_in_at_once(console: Rig, users: UserStore) -> None:
    path, visit = await a_link(users), await console.visit()
    assert "Make the first admin" in (await visit.get(path)).text
    await visit.follow(await use(visit, path, "Ann"))

    assert await is_in(visit)
    [user] = await users.everyone()
    assert (user.name, user.role, user.projects, user.disabled_at) == ("ann", "admin", (), None)
    [row] = await console.audit()
    assert (row["action"], row["actor"], row["object"], row["outcome"]) == ("link.use", "ann", "ann", "done")
    assert (await log_in(await console.visit(), password=NEW)).status == 303


async def test_of_two_links_for_the_first_admin_the_second_is_dead(console: Rig, users: UserStore) -> None:
    """Several replicas each print one."""
    one, other = await a_link(users), await a_link(users)
    assert (await use(await console.visit(), one, "ann")).status == 303
    for path in (one, other):
        visit = await console.visit()
        for answer in (await visit.get(path), await use(visit, path, "eve")):
            assert answer.status == 410
            assert "does not work any more" in answer.text
    assert [user.name for user in await users.everyone()] == ["ann"]
    assert not await users.add_first_link(b"new", SystemClock().now(), SystemClock().now())


async def both_use(console: Rig, path: str) -> list[int]:
    visits = [await console.visit() for _ in range(2)]
    answers = await asyncio.gather(*(use(visit, path, f"user-{number}") for number, visit in enumerate(visits)))
    return sorted(answer.status for answer in answers)


async def test_of_two_who_use_one_link_at_once_one_wins_and_the_other_is_told(console: Rig, users: UserStore) -> None:
    assert await both_use(console, await a_link(users)) == [303, 410]
    [user] = await users.everyone()
    assert await both_use(console, await a_link(users, user.id)) == [303, 410]
    assert len(await users.everyone()) == 1


async def test_two_links_used_at_once_make_one_first_admin(console: Rig, users: UserStore) -> None:
    paths = [await a_link(users) for _ in range(4)]
    visits = [await console.visit() for _ in paths]
    answers = await asyncio.gather(
        *(use(visit, path, f"a{nr}") for nr, (visit, path) in enumerate(zip(visits, paths, strict=True)))
    )
    assert sorted(answer.status for answer in answers) == [303, 410, 410, 410]
    assert len(await users.everyone()) == 1


async def test_of_many_who_redeem_at_the_same_moment_one_does(users: UserStore) -> None:
    """As above, without the time that a password takes to be hashed, which lets one finish before another begins."""
    now = SystemClock().now()
    later = now + timedelta(hours=1)
    firsts = [new_link().digest for _ in range(4)]
    for digest in firsts:
        assert await users.add_first_link(digest, now, later)
    made = [users.redeem_first(digest, NewUser(new_id(), digest.hex(), "admin", ()), now) for digest in firsts]
    assert sorted(await asyncio.gather(*made)) == [False, False, False, True]
    [user] = await users.everyone()
    for _ in range(3):
        link = new_link()
        await users.add_link(link.digest, user.id, now, later)
        redeemed = await asyncio.gather(*(users.redeem(link.digest, "a hash", now) for _ in range(4)))
        assert sum(found is not None for found in redeemed) == 1


async def test_a_link_that_is_too_old_or_made_up_does_nothing(console: Rig, users: UserStore) -> None:
    for path in (await a_link(users, lives=timedelta(0)), "/link/made-up", "/link/%00"):
        visit = await console.visit()
        assert (await visit.get(path)).status == 410
        assert (await use(visit, path, "eve")).status == 410
    assert await users.is_empty()
    assert await console.audit() == [], "and leaves no row: anybody may make one up"


async def test_to_look_at_a_link_does_not_use_it_up(console: Rig, users: UserStore) -> None:
    path = await a_link(users)
    for _ in range(3):
        assert (await (await console.visit()).get(path)).status == 200
    assert (await use(await console.visit(), path, "ann")).status == 303


async def test_no_trace_holds_a_link(console: Rig, users: UserStore) -> None:
    path, recorder = await a_link(users), Recorder()
    app = build_app([], Keys(KEY), version="1", body_bytes_max=1024, console=console.app, tracer=recorder.tracer)
    async with TestClient(TestServer(app)) as client:
        assert (await client.get(ROOT + path)).status == 200
    attributes = dict(recorder.only.attributes or {})
    assert attributes["url.path"] == f"{ROOT}/link/{{token}}"
    assert path.rpartition("/")[2] not in repr(attributes)


@pytest.mark.parametrize(
    ("name", "new", "again", "told"),
    [
        ("Änn", NEW, NEW, "is no name"),
        ("", NEW, NEW, "is no name"),
        ("ann", "kD9!xw#Lq2v", "kD9!xw#Lq2v", "too short"),
        ("ann", NEW, NEW + "!", "is not the same password"),
        ("ann.the.admin", "ann.the.admin1", "ann.the.admin1", "too easy to guess"),
    ],
)
async def test_what_is_wrong_is_told_beside_its_field_and_the_link_still_works(
    console: Rig, users: UserStore, name: str, new: str, again: str, told: str
) -> None:
    path, visit = await a_link(users), await console.visit()
    answer = await use(visit, path, name, new, again)
    assert answer.status == 422
    assert told in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert f'value="{name.lower()}"' in answer.text
    assert new not in answer.text, "a password is never shown again"
    assert (await use(visit, path, "ann")).status == 303


# --- invitations


async def test_who_is_invited_sets_a_password_and_has_the_role_and_projects(console: Rig, users: UserStore) -> None:
    admin = await console.login("admin", "root")
    invited = await admin.post(
        "/users", {"name": "Bob@Example.com", "role": "viewer", "projects": "shop, billing shop"}
    )
    path = link_in(invited)
    assert invited.headers["Cache-Control"] == "no-store"
    assert path not in (await admin.get(f"/users/{await the_user(users, 'bob@example.com')}")).text

    visit = await console.visit()
    assert (await log_in(visit, "bob@example.com", NEW)).status == 401
    assert "bob@example.com" in (await visit.get(path)).text
    assert (await use(visit, path)).status == 303

    assert await is_in(visit)
    user = await users.by_name("bob@example.com")
    assert user is not None
    assert (user.role, user.projects) == ("viewer", ("shop", "billing"))
    assert (await use(visit, path)).status == 410


async def test_the_link_leads_to_where_the_admin_came_in(console: Rig) -> None:
    admin = await console.login("admin", "root")
    answer = await admin.post("/users", {"name": "bob", "role": "viewer"})
    assert "http://127.0.0.1/console/link/" in answer.text, "CARILLON_PUBLIC_URL"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "root"}, "is taken"),
        ({"name": "b b"}, "is no name"),
        ({"name": "bob", "role": "king"}, "choose viewer, operator, admin"),
        ({"name": "bob", "projects": "a/b"}, "which is no name"),
        ({"name": "bob", "role": "admin", "projects": "shop"}, "are not for an admin"),
    ],
)
async def test_an_invitation_with_a_fault_makes_nobody_and_keeps_what_was_typed(
    console: Rig, users: UserStore, fields: dict[str, str], told: str
) -> None:
    admin = await console.login("admin", "root")
    answer = await admin.post("/users", {"role": "viewer", "projects": "", **fields})
    assert answer.status == 422
    assert told in answer.text
    assert f'value="{fields["name"]}"' in answer.text
    assert len(await users.everyone()) == 1


async def test_there_are_only_so_many_users(console: Rig, users: UserStore) -> None:
    async with console.postgres.acquire() as connection:
        await connection.execute(
            "INSERT INTO console_user (id, name, role, projects, created_at, changed_at)"
            " SELECT gen_random_uuid(), 'u' || n, 'viewer', '{}', now(), now() FROM generate_series(1, $1) AS n",
            USERS_MAX - 1,
        )
    admin = await console.login("admin", "root")
    assert (await admin.post("/users", {"name": "bob", "role": "viewer"})).status == 409


# --- what an admin may


async def test_a_change_of_role_counts_from_the_next_page_on(console: Rig) -> None:
    admin, bob = await console.login("admin", "root"), await console.login("viewer", "bob")
    assert (await bob.get("/users")).status == 403
    answer = await admin.post(f"/users/{bob.user_id}", {"role": "admin", "projects": ""})
    assert "bob is changed" in (await admin.follow(answer)).text
    assert (await bob.get("/users")).status == 200


async def test_who_is_disabled_is_out_and_stays_out_until_enabled(console: Rig, users: UserStore) -> None:
    admin = await console.login("admin", "root")
    await with_password(console, "bob", "operator")
    bob, id_ = await console.visit(), await the_user(users, "bob")
    await log_in(bob, "bob")
    assert await is_in(bob)
    path = await a_link(users, id_)

    told = await admin.follow(await admin.post(f"/users/{id_}/disable"))

    assert "bob is disabled" in told.text
    assert not await is_in(bob)
    assert (await use(await console.visit(), path)).status == 410
    assert (await admin.post(f"/users/{id_}/link")).status == 409

    await admin.post(f"/users/{id_}/enable")
    assert not await is_in(bob), "the old session stays dead"
    assert (await use(await console.visit(), path)).status == 410, "and so does the old link"
    assert (await log_in(bob, "bob")).status == 303


async def test_a_new_link_ends_the_one_before_and_the_password_only_when_it_is_used(
    console: Rig, users: UserStore
) -> None:
    admin = await console.login("admin", "root")
    await with_password(console, "bob", "operator")
    bob, id_ = await console.visit(), await the_user(users, "bob")
    await log_in(bob, "bob")
    first = link_in(await admin.post(f"/users/{id_}/link"))
    second = link_in(await admin.post(f"/users/{id_}/link"))

    assert (await use(await console.visit(), first)).status == 410
    assert await is_in(bob)
    assert (await use(await console.visit(), second)).status == 303
    assert not await is_in(bob), "whoever knew the old password is out"
    assert (await log_in(await console.visit(), "bob")).status == 401


async def test_an_admin_logs_somebody_out_everywhere(console: Rig) -> None:
    admin, bob = await console.login("admin", "root"), await console.login("operator", "bob")
    await admin.post(f"/users/{bob.user_id}/logout")
    assert not await is_in(bob)
    assert await is_in(admin)


@pytest.mark.parametrize("what", ["", "/disable", "/enable", "/link", "/logout"])
async def test_nobody_is_a_404(console: Rig, what: str) -> None:
    admin = await console.login("admin", "root")
    for id_ in (str(new_id()), "nobody", "%00"):
        answer = await admin.post(f"/users/{id_}{what}", {"role": "viewer", "projects": ""})
        assert answer.status == 404
        assert (await admin.get(f"/users/{id_}")).status == 404


# --- an admin is always left


async def admins(console: Rig, users: UserStore, count: int) -> Sequence[UUID]:
    for number in range(count):
        await with_password(console, f"admin-{number}", "admin")
    return [await the_user(users, f"admin-{number}") for number in range(count)]


@pytest.mark.parametrize("what", ["", "/disable"])
async def test_the_last_admin_who_can_log_in_is_neither_disabled_nor_demoted(
    console: Rig, users: UserStore, what: str
) -> None:
    [id_] = await admins(console, users, 1)
    invited = await console.login("admin", "without-a-password")
    fields = {"role": "viewer", "projects": ""}

    refused = await invited.follow(await invited.post(f"/users/{id_}{what}", fields))
    assert "This is the last admin who can log in." in refused.text
    user = await users.by_id(id_)
    assert user is not None
    assert (user.role, user.disabled_at) == ("admin", None)
    assert [row["outcome"] for row in await console.audit()] == ["last_admin"]

    await with_password(console, "another", "admin")
    await invited.post(f"/users/{id_}{what}", fields)
    user = await users.by_id(id_)
    assert user is not None
    assert (user.role, user.disabled_at is not None) in {("viewer", False), ("admin", True)}


async def test_of_admins_who_take_each_other_away_at_once_one_stays(console: Rig, users: UserStore) -> None:
    for round_ in range(5):
        ids = await admins(console, users, 4) if round_ == 0 else [user.id for user in await users.everyone()]
        now = SystemClock().now()
        for id_ in ids:
            assert await users.change(id_, "admin", (), now) == "done"
            await users.enable(id_, now)
        changes = [
            users.disable(id_, now) if number % 2 else users.change(id_, "viewer", (), now)
            for number, id_ in enumerate(ids)
        ]
        outcomes = await asyncio.gather(*changes)
        assert sorted(outcomes) == ["done", "done", "done", "last_admin"]
        left = [user for user in await users.everyone() if user.role == "admin" and user.disabled_at is None]
        assert len(left) == 1


# --- one's own account


async def test_a_new_password_ends_the_other_sessions_and_not_this_one(console: Rig) -> None:
    await with_password(console)
    here, there = await console.visit(), await console.visit()
    for visit in (here, there):
        assert (await log_in(visit)).status == 303
    here.csrf = re.search(r'name="csrf" value="([^"]+)"', (await here.get("/account")).text)[1]  # type: ignore[index]
    before = {morsel.value for morsel in here.client.session.cookie_jar}

    answer = await here.post("/account/password", {"old": PASSWORD, "new": NEW, "again": NEW})
    told = await here.follow(answer)

    assert "Your password is changed." in told.text
    assert before.isdisjoint(morsel.value for morsel in here.client.session.cookie_jar)
    assert await is_in(here)
    assert not await is_in(there)
    assert (await log_in(await console.visit())).status == 401


@pytest.mark.parametrize(
    ("old", "new", "again", "told"),
    [
        ("not my password", NEW, NEW, "is not your password"),
        (PASSWORD, "short", "short", "too short"),
        (PASSWORD, NEW, NEW + "!", "is not the same password"),
    ],
)
async def test_a_password_that_is_not_changed(console: Rig, old: str, new: str, again: str, told: str) -> None:
    await with_password(console)
    visit = await console.visit()
    await log_in(visit)
    visit.csrf = re.search(r'name="csrf" value="([^"]+)"', (await visit.get("/account")).text)[1]  # type: ignore[index]
    answer = await visit.post("/account/password", {"old": old, "new": new, "again": again})
    assert answer.status == 422
    assert told in answer.text
    assert await is_in(visit)


async def test_who_sits_at_anothers_screen_cannot_try_passwords_at_will(
    console: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "WAIT_FIRST_S", 60)
    await with_password(console)
    visit = await console.visit()
    await log_in(visit)
    visit.csrf = re.search(r'name="csrf" value="([^"]+)"', (await visit.get("/account")).text)[1]  # type: ignore[index]
    fields = {"old": "not my password", "new": NEW, "again": NEW}
    assert [(await visit.post("/account/password", fields)).status for _ in range(2)] == [422, 429]


async def test_log_out_everywhere_ends_all_of_ones_own_sessions(console: Rig) -> None:
    await with_password(console)
    here, there = await console.visit(), await console.visit()
    for visit in (here, there):
        await log_in(visit)
    here.csrf = re.search(r'name="csrf" value="([^"]+)"', (await here.get("/account")).text)[1]  # type: ignore[index]
    answer = await here.post("/account/logout-everywhere")
    assert "You are logged out, everywhere." in (await here.follow(answer)).text
    assert not await is_in(here)
    assert not await is_in(there)


# --- the table


async def test_projects_are_those_of_tasks_keys_and_users_and_the_default(console: Rig, users: UserStore) -> None:
    async with console.postgres.acquire() as connection:
        await connection.execute(
            "INSERT INTO key (id, project, name, digest, scopes, created_at, changed_at)"
            " VALUES (gen_random_uuid(), 'of-a-key', '', '', '{}', now(), now())"
        )
        for number, project in enumerate(["of-tasks", "of-tasks", "zzz", "aaa", "aaa", "aaa"]):
            await connection.execute(
                "INSERT INTO task (id, project, created_at, state, state_order, state_at, reason, accepted_generation,"
                " last_order, last_attempt, first_order) VALUES ($1, $2, now(), 'failed', $3, now(), '', 1, 0, 0, 0)",
                new_id(),
                project,
                number,
            )
    await users.add(NewUser(new_id(), "ann", "viewer", ("of-a-user", "default")), SystemClock().now())
    assert await users.projects() == ["aaa", "default", "of-a-key", "of-a-user", "of-tasks", "zzz"]
