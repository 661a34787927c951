"""API keys in a real Postgres: what replicas know of them, and when."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import pytest
import structlog
from yarl import URL

from libs.common.clock import SystemClock
from libs.common.lifecycle import Fatal
from libs.common.postgres import Postgres, PostgresAway, postgres_pool
from services.ingest import keys as command
from services.ingest.auth import ALL_SCOPES, COMMIT_MAX, Keys
from services.ingest.key_text import new_key
from services.ingest.keyring import Keyring, NewKey
from services.ingest.problems import Problem
from services.ingest.store_keys import KEYS_MAX, KeyStore, StoredKey
from tests.integration.rig import Proxy, until
from tests.unit.ingest.key_samples import NOW, FakeKeyStore, HandClock, a_key

BOOTSTRAP = "a-key-of-enough-length"
Store = KeyStore | FakeKeyStore


@pytest.fixture
def store(postgres: Postgres) -> KeyStore:
    return KeyStore(postgres)


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return Keyring(store, SystemClock())


@pytest.fixture(params=["real", "fake"])
def either(request: pytest.FixtureRequest, store: KeyStore) -> Store:
    return store if request.param == "real" else FakeKeyStore()


def a_new_key(**different: object) -> NewKey:
    return NewKey(**{"name": "of a test", "scopes": ("tasks:write",), **different})  # type: ignore[arg-type]


async def status(keys: Keys, text: str) -> int:
    try:
        await keys.caller(f"Bearer {text}")
    except Problem as problem:
        return problem.status
    return 200


@asynccontextmanager
async def replica(store: KeyStore) -> AsyncIterator[Keys]:
    """At work, as in a process of its own."""
    keys, stopping = Keys(BOOTSTRAP, store), asyncio.Event()
    working = asyncio.create_task(keys.run(stopping))
    try:
        yield keys
    finally:
        stopping.set()
        await working


# --- the table, and the dict that stands in for it elsewhere


async def test_a_key_comes_back_as_it_was_stored(either: Store) -> None:
    key = a_key(per_s=1.5, burst=2, expires_at=NOW + timedelta(days=1), scopes=("admin", "tasks:read"))
    assert await either.add(key)
    assert await either.show("shop", key.id) == key
    assert await either.find([key.digest, b"another"]) == [key]
    assert await either.show("another", key.id) is None


async def test_pages_are_newest_first_and_of_one_project(either: Store) -> None:
    keys = [a_key(name=str(number)) for number in range(5)]
    for key in (*keys, a_key(project="another")):
        await either.add(key)
    first = await either.page("shop", None, 2)
    second = await either.page("shop", first[-1].id, 10)
    assert [key.name for key in (*first, *second)] == ["4", "3", "2", "1", "0"]


async def test_to_revoke_twice_changes_nothing_and_another_projects_key_not_at_all(either: Store) -> None:
    key = a_key()
    await either.add(key)
    assert await either.revoke("another", key.id, NOW) is None
    first = await either.revoke("shop", key.id, NOW)
    assert first == key._replace(revoked_at=NOW)
    assert await either.revoke("shop", key.id, NOW + timedelta(hours=1)) == first


async def test_a_replaced_key_ends_at_the_end_of_the_overlap_or_at_its_own(either: Store) -> None:
    long, short = a_key(), a_key(expires_at=NOW + timedelta(seconds=5))
    until_ = NOW + timedelta(seconds=60)
    for old, end in ((long, until_), (short, NOW + timedelta(seconds=5))):
        await either.add(old)
        new = a_key()
        assert await either.replace(old.id, new, until_) == "done"
        assert await either.show("shop", old.id) == old._replace(replaced_by=new.id, expires_at=end)
        assert await either.show("shop", new.id) == new
        assert await either.replace(old.id, a_key(), until_) == "ended"


@pytest.mark.parametrize("how", [{"revoked_at": NOW}, {"expires_at": NOW}, {"project": "another"}])
async def test_a_key_that_has_ended_is_not_replaced(either: Store, how: dict[str, object]) -> None:
    old, new = a_key(), a_key()
    await either.add(old._replace(**{name: value for name, value in how.items() if name != "revoked_at"}))  # type: ignore[arg-type]
    if "revoked_at" in how:
        await either.revoke("shop", old.id, NOW)
    assert await either.replace(old.id, new, NOW + timedelta(days=1)) == "ended"
    assert await either.show("shop", new.id) is None


async def test_of_two_that_rotate_one_key_at_once_one_does(keyring: Keyring) -> None:
    _, old = await keyring.create("shop", a_new_key(), ALL_SCOPES)
    outcomes = await asyncio.gather(
        *(keyring.rotate("shop", old.id, 60, ALL_SCOPES) for _ in range(5)), return_exceptions=True
    )
    done = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(done) == 1
    assert {outcome.code for outcome in outcomes if isinstance(outcome, Problem)} == {"key_rotated"}
    assert len(await keyring.page("shop", None, 10)) == 2


async def test_a_full_project_gets_no_key_more_by_any_way(postgres: Postgres, store: KeyStore) -> None:
    last = a_key()
    assert await store.add(last)
    async with postgres.acquire() as connection:
        await connection.execute(
            "INSERT INTO key (id, project, name, digest, scopes, created_at, changed_at)"
            " SELECT gen_random_uuid(), 'shop', n::text, sha256(n::text::bytea), '{admin}', $1, $1"
            " FROM generate_series(2, $2) AS n",
            NOW,
            KEYS_MAX,
        )
    assert not await store.add(a_key())
    assert await store.add(a_key(project="another"))
    assert await store.replace(last.id, a_key(), NOW + timedelta(days=1)) == "full"
    assert await store.show("shop", last.id) == last, "nothing of it has happened"
    await store.revoke("shop", last.id, NOW)
    assert await store.add(a_key())


# --- what replicas know


async def test_a_revoked_key_is_refused_by_every_replica_within_two_seconds(
    keyring: Keyring, store: KeyStore, postgres: Postgres
) -> None:
    text, key = await keyring.create("shop", a_new_key(), ALL_SCOPES)
    async with replica(store) as one, replica(KeyStore(postgres)) as two:
        for keys in (one, two):
            assert await status(keys, text) == 200
        await keyring.revoke("shop", key.id)

        async def is_refused_by(keys: Keys) -> bool:
            return await status(keys, text) == 401

        await asyncio.gather(
            *(until("the key to be refused", partial(is_refused_by, keys), within_s=2) for keys in (one, two))
        )


async def test_a_change_that_is_committed_late_is_seen_all_the_same(store: KeyStore, postgres: Postgres) -> None:
    """Polls go by `changed_at`, which is before the commit; another commit in between must not hide it."""
    text = new_key()
    key = a_key(text)
    await store.add(key)
    keys = Keys(BOOTSTRAP, store)
    assert await status(keys, text) == 200
    await keys.poll()  # which writes its use down, and waits for no lock after this
    async with postgres.acquire() as connection, connection.transaction():
        await connection.execute("UPDATE key SET revoked_at = $1, changed_at = clock_timestamp()", NOW)
        await store.add(a_key())
        for _ in range(3):
            await keys.poll()
        assert await status(keys, text) == 200
    await keys.poll()
    assert await status(keys, text) == 401
    assert COMMIT_MAX >= timedelta(seconds=15), "above what statement and idle time-outs add up to"


async def test_a_rotated_key_works_beside_its_successor_until_the_overlap_is_over(store: KeyStore) -> None:
    clock = HandClock()
    keyring, keys = Keyring(store, clock), Keys(BOOTSTRAP, store, clock=clock)
    old, key = await keyring.create("shop", a_new_key(), ALL_SCOPES)
    assert await status(keys, old) == 200
    new, _ = await keyring.rotate("shop", key.id, 60, ALL_SCOPES)
    await keys.poll()
    await keys.poll()
    assert [await status(keys, each) for each in (old, new)] == [200, 200]
    clock.passed_s = 59.999
    assert [await status(keys, each) for each in (old, new)] == [200, 200]
    clock.passed_s = 60
    assert [await status(keys, each) for each in (old, new)] == [401, 200]


async def test_two_replicas_write_the_last_use_once_a_minute(store: KeyStore) -> None:
    text = new_key()
    key = a_key(text)
    await store.add(key)

    async def used(at_s: float, by: Keys, clock: HandClock) -> datetime | None:
        clock.passed_s = at_s
        assert await status(by, text) == 200
        await by.poll()
        [found] = await store.find([key.digest])
        return found.last_used_at

    clocks = HandClock(), HandClock()
    one, two = (Keys(BOOTSTRAP, store, clock=clock) for clock in clocks)
    assert await used(0, one, clocks[0]) == NOW
    assert await used(30, two, clocks[1]) == NOW
    assert await used(59, one, clocks[0]) == NOW
    assert await used(61, one, clocks[0]) == NOW + timedelta(seconds=61)
    assert await used(95, two, clocks[1]) == NOW + timedelta(seconds=61)


async def test_without_postgres_a_known_key_works_and_an_unknown_one_is_503(
    migrated_postgres_url: str, store: KeyStore
) -> None:
    known, unknown = new_key(), new_key()
    await store.add(a_key(known))
    await store.add(a_key(unknown))
    async with Proxy(migrated_postgres_url) as proxy:
        url = str(URL(proxy.url))
        async with (
            postgres_pool(url, role="carillon_ingest", schema="ingest", application_name="test") as through,
            replica(KeyStore(through)) as keys,
        ):
            assert await status(keys, known) == 200
            await proxy.close()
            stopped_at = time.monotonic()
            while time.monotonic() - stopped_at < 3:  # beyond what is known to be fresh
                begun = time.monotonic()
                assert await status(keys, known) == 200
                assert await status(keys, unknown) == 503
                assert time.monotonic() - begun < 2
                await asyncio.sleep(0.05)
            assert await status(keys, BOOTSTRAP) == 200
            await proxy.open()

            async def is_back() -> bool:
                return await status(keys, unknown) == 200

            await until("the unknown key to be known", is_back)


async def test_a_postgres_that_falls_silent_holds_no_request_up(migrated_postgres_url: str, store: KeyStore) -> None:
    known = new_key()
    await store.add(a_key(known))
    async with Proxy(migrated_postgres_url) as proxy:
        async with (
            postgres_pool(proxy.url, role="carillon_ingest", schema="ingest", application_name="test") as through,
            replica(KeyStore(through)) as keys,
        ):
            assert await status(keys, known) == 200
            proxy.freeze()
            proxy.is_mute = True
            took: list[float] = []
            ends_at = time.monotonic() + 4.5
            while time.monotonic() < ends_at:
                begun = time.monotonic()
                assert await status(keys, known) == 200
                took.append(time.monotonic() - begun)
                await asyncio.sleep(0.01)
            assert max(took) < 1.5
            assert sum(each > 0.1 for each in took) <= 1, "one finds out, and the others do not wait"
            proxy.cut()


async def test_a_database_without_the_table_ends_the_process_and_says_what_to_do(postgres: Postgres) -> None:
    async with postgres.acquire() as connection:
        await connection.execute("DROP TABLE key")
    with pytest.raises(Fatal, match="run the set-up step"):
        await Keys(BOOTSTRAP, KeyStore(postgres)).run(asyncio.Event())


async def test_what_becomes_of_a_key_while_postgres_goes_away_is_said_to_be_unknown(store: KeyStore) -> None:
    class Lost(KeyStore):
        async def add(self, key: StoredKey) -> bool:
            await store.add(key)
            raise PostgresAway("the commit's answer is lost")

    keyring = Keyring(Lost(store._postgres), SystemClock())
    with pytest.raises(Problem) as refused:
        await keyring.create("shop", a_new_key(), ALL_SCOPES)
    assert (refused.value.status, refused.value.code) == (503, "keys_unavailable")
    assert "may have been made" in refused.value.detail
    assert len(await keyring.page("shop", None, 10)) == 1


# --- python -m services.ingest.keys


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """The command keeps logs off its stdout, for its own process."""
    yield
    structlog.reset_defaults()


class Command:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def __call__(self, *words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(command.main, list(words))
        said = self._capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
def keys_command(
    migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("CARILLON_POSTGRES_URL", migrated_postgres_url)
    return Command(capsys)


async def test_the_command_makes_lists_rotates_and_revokes(keys_command: Command, store: KeyStore) -> None:
    keys = Keys(BOOTSTRAP, store)
    code, out, err = await keys_command(
        *("create", "--project", "shop", "--name", "ci", "--scopes", "tasks:write,tasks:read"),
        *("--expires-at", "2035-01-01T00:00:00Z", "--per-s", "5"),
    )
    assert code == 0
    text = out.strip()
    caller = await keys.caller(f"Bearer {text}")
    assert (caller.project, sorted(caller.scopes)) == ("shop", ["tasks:read", "tasks:write"])
    assert caller.limit == (5.0, 5)
    assert text not in err

    code, out, _ = await keys_command("rotate", "--project", "shop", caller.key_id, "--overlap-s", "60")
    assert code == 0
    successor = await keys.caller(f"Bearer {out.strip()}")

    code, out, err = await keys_command("revoke", "--project", "shop", caller.key_id)
    assert (code, out) == (0, "")
    code, out, _ = await keys_command("list", "--project", "shop")
    newest, oldest = (line.split("\t") for line in out.splitlines())
    assert (newest[0], newest[1]) == (successor.key_id, "active until 2035-01-01T00:00:00.000Z")
    assert (oldest[0], oldest[1], oldest[4]) == (caller.key_id, "revoked", "ci")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "--name", "x", "--scopes", "tasks:fly"), "scopes are tasks:write, tasks:read"),
        (("create", "--name", "x", "--scopes", ""), "scopes are tasks:write"),
        (("create", "--name", "", "--scopes", "admin"), "name write 1 to 100 characters"),
        (("create", "--project", "Shop", "--name", "x", "--scopes", "admin"), "project is no name of a project"),
        (("create", "--name", "x", "--scopes", "admin", "--expires-at", "soon"), "expires_at is no RFC 3339 time"),
        (("revoke", "0199c0de-0000-7000-8000-000000000000"), "There is no key"),
        (("rotate", "0199c0de-0000-7000-8000-000000000000"), "There is no key"),
        (("list", "--project", "a b"), "project is no name of a project"),
    ],
)
async def test_the_command_says_what_is_wrong(keys_command: Command, words: tuple[str, ...], said: str) -> None:
    code, out, err = await keys_command(*words)
    assert (code, out) == (1, "")
    assert said in err


async def test_the_command_without_a_database_says_which_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CARILLON_POSTGRES_URL", raising=False)
    code, _, err = await Command(capsys)("list")
    assert code == 78
    assert "CARILLON_POSTGRES_URL" in err
    monkeypatch.setenv("CARILLON_POSTGRES_URL", "postgres://carillon:x@127.0.0.1:1/carillon")
    code, _, err = await Command(capsys)("list")
    assert code == 1
    assert "cannot be read or written now" in err
