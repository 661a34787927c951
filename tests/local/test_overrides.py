"""Single processes of a stack may be told otherwise than their like."""

from pathlib import Path

import pytest

from deploy.local.environment import environment
from deploy.local.errors import StackError
from deploy.local.layout import PROJECT, Layout
from deploy.local.plan import Override, ProcessSpec, read_overrides
from deploy.local.services import specs


def made(folder: Path, overrides: dict[str, Override]) -> dict[str, ProcessSpec]:
    layout = Layout(folder)
    return {spec.name: spec for spec in specs(layout, environment({}, layout), 2, "services", overrides)}


def test_an_override_is_for_one_process_and_leaves_the_others_alone(tmp_path: Path) -> None:
    plain = made(tmp_path, {})
    override = Override(env={"CARILLON_LOG_LEVEL": "debug"}, cwd="/elsewhere")
    told = made(tmp_path, {"scheduler-2": override})
    assert told["scheduler-2"].env == plain["scheduler-2"].env | override.env
    assert (told["scheduler-2"].cwd, told["scheduler-1"].cwd) == ("/elsewhere", str(PROJECT))
    assert {name for name in plain if plain[name] != told[name]} == {"scheduler-2"}


def test_a_server_behind_a_proxy_keeps_its_login_and_changes_its_port(tmp_path: Path) -> None:
    plain, told = made(tmp_path, {}), made(tmp_path, {"ingest-1": Override(server_ports={"postgres": 4711})})
    before, after = (one["ingest-1"].env for one in (plain, told))
    assert after["CARILLON_POSTGRES_URL"] == before["CARILLON_POSTGRES_URL"].replace(":28432/", ":4711/")
    assert {name for name in before if before[name] != after[name]} == {"CARILLON_POSTGRES_URL"}


def test_an_override_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="scheduler-3"):
        made(tmp_path, {"scheduler-3": Override()})


@pytest.mark.parametrize("text", ["", "[]", '{"ingest-1": {"environment": {}}}', '{"ingest-1": {"server_ports": 1}}'])
def test_overrides_that_cannot_be_read_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "overrides.json"
    file.write_text(text)
    with pytest.raises(StackError, match=r"overrides\.json"):
        read_overrides(file)


def test_overrides_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "overrides.json"
    file.write_text('{"ingest-1": {"env": {"A": "b"}, "server_ports": {"redis": 1}, "cwd": "/old"}}')
    assert read_overrides(file) == {"ingest-1": Override(env={"A": "b"}, server_ports={"redis": 1}, cwd="/old")}
