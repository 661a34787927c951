"""The systemd units: systemd takes them, they are shut in, and their settings are ones that the services take."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.setup import SetupSettings
from libs.common import connection, postgres
from libs.common.lifecycle import EXIT_SETTINGS
from libs.common.settings import CommonSettings, SettingsError, load
from services.dispatcher.settings import DispatcherSettings
from services.ingest.limits import TIMEOUT_S_MAX
from services.ingest.settings import IngestSettings
from services.mailer.settings import MailerSettings
from services.scheduler.settings import SchedulerSettings

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
INSTALLED = "/opt/carillon"
TYPES: dict[str, Any] = {
    "ingest": IngestSettings,
    "scheduler": SchedulerSettings,
    "dispatcher": DispatcherSettings,
    "mailer": MailerSettings,
    "setup": SetupSettings,
}
STARTED = ("carillon-setup.service", *(f"carillon@{name}.service" for name in TYPES if name != "setup"))
# As `systemd-analyze security` counts, times ten: it said 1.4 ("OK") on systemd 252. Another version weighs anew.
EXPOSURE_MAX = 20


@pytest.fixture
def analyze() -> str:
    path = shutil.which("systemd-analyze")
    if path is None and os.environ.get("CI") == "true":
        pytest.fail("no systemd-analyze")
    return path or pytest.skip("no systemd-analyze")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with each instance by name, and with programs that are on this machine."""
    program = tmp_path / "opt" / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    folder = tmp_path / "units"
    folder.mkdir()
    for unit in UNITS.glob("carillon*"):
        (folder / unit.name).write_text(unit.read_text().replace(INSTALLED, str(tmp_path / "opt")))
    for name in STARTED[1:]:
        (folder / name).symlink_to("carillon@.service")
    return folder


def ran(*command: str, units: Path) -> str:
    # The colon appends systemd's own units.
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:"}
    done = subprocess.run(command, env=environment, cwd=units, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def value(unit: str, name: str) -> str:
    [found] = re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)
    return str(found)


def environment_of(name: str) -> dict[str, str]:
    """As systemd reads the two files that a unit names."""
    lines = [line for file in ("common", name) for line in (UNITS / "etc" / f"{file}.env").read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("unit", ["carillon.target", *STARTED])
def test_systemd_takes_the_unit_without_a_complaint(analyze: str, installed: Path, unit: str) -> None:
    said = ran(analyze, "verify", "--man=no", f"./{unit}", units=installed)
    assert [line for line in said.splitlines() if "carillon" in line] == []


@pytest.mark.parametrize("unit", STARTED)
def test_a_unit_is_shut_in(analyze: str, installed: Path, unit: str) -> None:
    if "--offline" not in ran(analyze, "--help", units=installed):
        pytest.skip("this systemd judges only what is installed")
    # Since 250 the file itself is looked at; the exit status says whether it stays below the threshold.
    ran(analyze, "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", "--no-pager", f"./{unit}", units=installed)


@pytest.mark.parametrize("name", TYPES)
def test_the_example_settings_are_ones_that_the_process_takes(name: str, tmp_path: Path) -> None:
    filled_in = {variable: text.replace("CHANGE-ME", "0123456789") for variable, text in environment_of(name).items()}
    load(TYPES[name], filled_in, secrets_dir=tmp_path)


def test_a_forgotten_change_me_is_not_what_calls_are_signed_with(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CARILLON_SIGNING_MASTER_KEY: should be random"):
        load(DispatcherSettings, environment_of("dispatcher"), secrets_dir=tmp_path)


@pytest.mark.parametrize("name", TYPES)
def test_a_process_is_told_no_secret_that_it_does_not_need(name: str) -> None:
    taken = {f"CARILLON_{field}".upper() for field in TYPES[name].model_fields}
    secret = {variable for variable, text in environment_of(name).items() if "CHANGE-ME" in text}
    assert secret
    assert secret <= taken


@pytest.mark.parametrize("unit", ["carillon@.service", "carillon-setup.service"])
def test_wrong_settings_do_not_make_a_process_start_again(unit: str) -> None:
    assert value(unit, "RestartPreventExitStatus") == str(EXIT_SETTINGS)


def test_systemd_waits_longer_than_any_drain_before_it_kills() -> None:
    needed_s = max(map(drain_s, TYPES)) + 2 * connection.CLOSE_TIMEOUT_S + postgres.CLOSE_S
    assert int(value("carillon@.service", "TimeoutStopSec").removesuffix("s")) > needed_s


def test_an_upgrade_cuts_off_no_call_however_long_it_may_take() -> None:
    assert drain_s("dispatcher") > TIMEOUT_S_MAX


def test_a_service_is_started_again_for_ever() -> None:
    assert value("carillon@.service", "Restart") == "always"
    assert value("carillon@.service", "StartLimitIntervalSec") == "0"


def drain_s(name: str) -> float:
    return float(environment_of(name).get("CARILLON_DRAIN_S", CommonSettings.model_fields["drain_s"].default))
