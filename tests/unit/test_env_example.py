"""`.env.example` and `compose.yaml` say the same as the settings' types."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from deploy.setup import SetupSettings
from libs.common.settings import load, variable_of
from services.dispatcher.settings import DispatcherSettings
from services.ingest.settings import IngestSettings
from services.mailer.settings import MailerSettings
from services.scheduler.settings import SchedulerSettings
from tests.conftest import ROOT

SETTINGS: dict[str, type[BaseSettings]] = {
    "setup": SetupSettings,
    "ingest": IngestSettings,
    "scheduler": SchedulerSettings,
    "dispatcher": DispatcherSettings,
    "mailer": MailerSettings,
}
FIXED_IN_A_CONTAINER = {f"CARILLON_{name}" for name in ("HOST", "PORT", "ADMIN_HOST", "ADMIN_PORT", "REPLICA")}
# In compose.yaml another default than in the type, for one service: .env.example says so beside the line.
HAS_TWO_DEFAULTS = {"CARILLON_ALLOW_NETWORKS", "CARILLON_DRAIN_S"}
EXAMPLE = (ROOT / ".env.example").read_text()
COMPOSE = (ROOT / "compose.yaml").read_text()
LINES = dict(re.findall(r"^#([A-Z][A-Z_]+)=(.*)$", EXAMPLE, re.M))
# Of `${NAME:-default}` and `${NAME-default}`, without the one default that holds another variable.
DEFAULTS = dict(re.findall(r"\$\{([A-Z_]+):?-([^${}]*)\}", COMPOSE))
NAMES = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))


def fields() -> Iterator[tuple[str, Any]]:
    for settings in SETTINGS.values():
        yield from ((variable_of(name), field) for name, field in settings.model_fields.items())


def as_written(default: object) -> str:
    if default in (None, PydanticUndefined, ()):
        return ""
    return ",".join(f"{part:g}" for part in default) if isinstance(default, tuple) else str(default)


def test_the_example_names_what_compose_reads_and_no_more() -> None:
    assert set(LINES) == NAMES


def test_the_example_names_every_setting_that_a_container_does_not_fix() -> None:
    assert {name for name in LINES if name != "CARILLON_IMAGE_TAG" and name.startswith("CARILLON_")} == {
        name for name, _ in fields()
    } - FIXED_IN_A_CONTAINER
    assert not [name for name in FIXED_IN_A_CONTAINER if name not in EXAMPLE]


def test_the_example_says_what_each_setting_means() -> None:
    for name, field in fields():
        if name not in FIXED_IN_A_CONTAINER:
            assert re.search(rf"^# {re.escape(field.description)}\n(# .*\n)?#{name}=", EXAMPLE, re.M), name


def test_the_example_shows_the_defaults() -> None:
    of_types = {name: as_written(field.default) for name, field in fields()}
    wrong = {
        name: shown
        for name, shown in LINES.items()
        if name not in HAS_TWO_DEFAULTS and shown != (DEFAULTS[name] or of_types.get(name, ""))
    }
    assert not wrong
    assert LINES["CARILLON_DRAIN_S"] == of_types["CARILLON_DRAIN_S"]
    assert LINES["CARILLON_ALLOW_NETWORKS"] == f"{DEFAULTS['DEMO_PREFIX']}.2/32"


@pytest.mark.parametrize("service", SETTINGS)
def test_compose_hands_each_service_its_own_settings_and_no_others(service: str) -> None:
    passed = yaml.safe_load(COMPOSE)["services"][service]["environment"]
    own = {variable_of(name) for name in SETTINGS[service].model_fields}
    assert set(passed) == own - FIXED_IN_A_CONTAINER
    assert not [name for name, value in passed.items() if not value.startswith(f"${{{name}")]


@pytest.mark.parametrize("service", SETTINGS)
def test_a_copied_example_with_every_line_taken_starts_each_service(service: str) -> None:
    needed = {
        "CARILLON_AMQP_URL": "amqp://rabbitmq",
        "CARILLON_POSTGRES_URL": "postgres://postgres",
        "CARILLON_REDIS_URL": "redis://redis",
        "CARILLON_BOOTSTRAP_KEY": "0123456789abcdef",
        "CARILLON_SIGNING_MASTER_KEY": "0123456789abcdef0123456789abcdef",
    }
    passed = yaml.safe_load(COMPOSE)["services"][service]["environment"]
    load(SETTINGS[service], {name: LINES[name] or needed.get(name, "") for name in passed})
