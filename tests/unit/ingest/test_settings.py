"""When the Redis list is read, and from where."""

import pytest

from libs.common.settings import SettingsError, load
from services.ingest.settings import IngestSettings

NEEDED = {
    "CARILLON_AMQP_URL": "amqp://rabbitmq",
    "CARILLON_POSTGRES_URL": "postgres://postgres",
    "CARILLON_REDIS_URL": "redis://redis",
    "CARILLON_BOOTSTRAP_KEY": "0123456789abcdef",
}


def told(**more: str) -> IngestSettings:
    return load(IngestSettings, NEEDED | {f"CARILLON_{name.upper()}": value for name, value in more.items()})


def test_no_list_is_read_unless_a_project_owns_its_entries() -> None:
    assert told().intake_key is None
    assert told(redis_intake_key="", legacy_project="").intake_key is None


def test_with_a_project_the_ancestors_list_is_read_or_the_one_named() -> None:
    assert told(legacy_project="shop").intake_key == "delay_queue_task"
    assert told(legacy_project="shop", redis_intake_key="calls").intake_key == "calls"


def test_a_list_without_a_project_stops_the_start_and_the_text_names_the_remedy() -> None:
    with pytest.raises(SettingsError, match=r"CARILLON_REDIS_INTAKE_KEY needs a project: set CARILLON_LEGACY_PROJECT"):
        told(redis_intake_key="calls")
