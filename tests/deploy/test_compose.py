"""compose.yaml gives each service the time to end that it asks for."""

import re
from typing import Any

import pytest
import yaml

from deploy.render import ROOT
from libs.common import connection, postgres
from libs.common.settings import CommonSettings
from services.ingest.limits import TIMEOUT_S_MAX

SERVICES = ("ingest", "scheduler", "dispatcher", "mailer")


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][name]
    return found


def drain_s(name: str) -> float:
    [default] = re.findall(r"\$\{CARILLON_DRAIN_S:-(\d*)\}", service(name)["environment"]["CARILLON_DRAIN_S"])
    return float(default or CommonSettings.model_fields["drain_s"].default)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_take_longer_to_end_than_its_drain_needs(name: str) -> None:
    given_s = float(service(name)["stop_grace_period"].removesuffix("s"))
    assert given_s > drain_s(name) + 2 * connection.CLOSE_TIMEOUT_S + postgres.CLOSE_S


def test_an_upgrade_cuts_off_no_call_however_long_it_may_take() -> None:
    assert drain_s("dispatcher") > TIMEOUT_S_MAX
