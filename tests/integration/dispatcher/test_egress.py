"""No caller connects where it must not: each is let loose in a world in which every address would hear it."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import msgspec
import pytest

from tests.conftest import ROOT
from tests.forbidden import ADDRESSES, NAMES, PORT, PORTS, PUBLIC, PUBLIC_6, REBINDING, SPELLINGS, hosts
from tests.integration.dispatcher.everywhere import CALLERS, NAMESPACE, Met, Row, World

Meet = Callable[[Row], Met]
UNRESOLVED = {"blocked_address", "protocol", "dns"}
"""What a caller may say to a spelling: that it is refused, no address, or no name."""

OPENED = ("10.0.0.0/8", "127.0.0.0/8", "::1/128")
OWN_PORTS = (5672, 6379, 6380, 9103, 15672)
CLOSED = [Row("", f"http://{host}:{PORT}/") for host in (*hosts(), *(each.name for each in NAMES))]
CLOSED += [Row("", f"http://{PUBLIC}:{port}/") for port in PORTS]
MIXED = [Row("", f"http://{each.name}:{PORT}/", times=6) for each in REBINDING]
CALLED = [Row("", f"http://{host}:{PORT}/") for host in (PUBLIC, f"[{PUBLIC_6}]", "8.8.8.8", "168.63.129.15")]


def opened(host: str, port: int = PORT, networks: tuple[str, ...] = OPENED) -> Row:
    url = f"http://{host}:{port}/"
    return Row("", url, allow_networks=networks, deny_networks=("10.5.0.0/16",), own_ports=(6380,))


OPEN = [opened(host) for host in ("10.1.1.1", "localhost", "[::1]", "both.example")]
DISGUISED = ("10.5.1.1", "[::ffff:10.1.1.1]", "192.168.1.1", "nat64.example")
NEVER = """169.254.169.254 metadata.google.internal 168.63.129.16 100.100.100.200 [fd00:ec2::254] [64:ff9b::a9fe:a9fe]
    [64:ff9b:1::7f00:1] 10.5.1.1 [::ffff:10.5.1.1]""".split()
STILL_CLOSED = [
    *(opened(host) for host in DISGUISED),
    *(opened(host, port) for host in ("10.1.1.1", "127.0.0.1", "[::1]") for port in OWN_PORTS),
    *(opened(host, networks=("0.0.0.0/0", "::/0")) for host in NEVER),
]


@pytest.fixture(params=CALLERS)
def meet(request: pytest.FixtureRequest) -> Meet:
    """What one caller met; all its rows are called the first time."""

    def of(row: Row) -> Met:
        return _all_met(request.param)[_key(row)]

    return of


def _all_met(caller: str) -> dict[bytes, Met]:
    if (trouble := _no_namespace()) and os.environ.get("CI") != "true":
        pytest.skip(f"no network namespace: {trouble}")
    rows = [*CLOSED, *MIXED, *CALLED, *OPEN, *STILL_CLOSED]
    done = _run(caller, tuple(rows))
    assert done.returncode == 0, done.stderr.decode()
    return dict(zip(map(_key, rows), msgspec.json.decode(done.stdout, type=list[Met]), strict=True))


@cache
def _no_namespace() -> str:
    probe = subprocess.run([*NAMESPACE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    return probe.stderr


@cache
def _run(caller: str, rows: tuple[Row, ...]) -> subprocess.CompletedProcess[bytes]:
    told = [msgspec.structs.replace(row, caller=caller) for row in rows]
    world = msgspec.json.encode(World(ports=sorted({PORT, *PORTS, *OWN_PORTS}), rows=told))
    program = [*NAMESPACE, sys.executable, "-m", "tests.integration.dispatcher.everywhere"]
    return subprocess.run(program, cwd=ROOT, input=world, capture_output=True, timeout=300, check=False)


def _key(row: Row) -> bytes:
    return msgspec.json.encode(row)


def test_the_table_has_eighty_rows_and_more() -> None:
    assert len(set(ADDRESSES)) > 80
    assert len({row.url for row in (*CLOSED, *MIXED)}) > 160


@pytest.mark.parametrize("row", CALLED, ids=lambda row: row.url)
def test_the_canary_hears_what_may_be_called(meet: Meet, row: Row) -> None:
    met = meet(row)
    assert (met.statuses, len(met.reached)) == ([200], 1)


@pytest.mark.parametrize("row", CLOSED, ids=lambda row: row.url)
def test_nothing_connects_to_what_must_not_be_reached(meet: Meet, row: Row) -> None:
    met = meet(row)
    assert (met.reached, met.statuses) == ([], [None])
    host = row.url.removeprefix("http://").rsplit(":", 1)[0]
    assert met.errors == ["blocked_address"] or (host in SPELLINGS and met.errors[0] in UNRESOLVED)


@pytest.mark.parametrize("row", [row for row in CLOSED if ".example:" in row.url], ids=lambda row: row.url)
def test_a_name_is_looked_up_where_the_test_answers(meet: Meet, row: Row) -> None:
    assert meet(row).asked > 0


@pytest.mark.parametrize("row", MIXED, ids=lambda row: row.url)
def test_a_name_that_changes_its_answer_or_gives_several_leads_only_where_it_may(meet: Meet, row: Row) -> None:
    met = meet(row)
    assert set(met.reached) <= {PUBLIC, PUBLIC_6}
    assert len(met.reached) == met.statuses.count(200)
    assert met.asked >= 2
    assert {error for error in met.errors if error} <= {"blocked_address", "connect"}


@pytest.mark.parametrize("name", [each.name for each in REBINDING if "flips" in each.name])
def test_the_resolver_does_rebind(meet: Meet, name: str) -> None:
    [met] = [meet(row) for row in MIXED if f"//{name}:" in row.url]
    assert {200, None} == set(met.statuses)
    assert "blocked_address" in met.errors


def test_of_two_addresses_the_dead_one_does_not_lead_to_the_forbidden_one(meet: Meet) -> None:
    [second, third] = [meet(row) for row in MIXED if "-best" in row.url]
    assert (second.reached, set(third.reached)) == ([], {PUBLIC})


@pytest.mark.parametrize("row", OPEN, ids=lambda row: row.url)
def test_an_opened_network_is_called(meet: Meet, row: Row) -> None:
    assert (meet(row).statuses, meet(row).errors) == ([200], [None])


@pytest.mark.parametrize("row", STILL_CLOSED, ids=lambda row: f"{row.url} {row.allow_networks[0]}")
def test_opening_a_network_opens_neither_our_servers_nor_metadata_nor_closed_parts_of_it(meet: Meet, row: Row) -> None:
    met = meet(row)
    assert (met.reached, met.errors) == ([], ["blocked_address"])
