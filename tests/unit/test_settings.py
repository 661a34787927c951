import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import SecretStr, field_validator

from libs.common.settings import (
    AdminPort,
    CommaFloats,
    CommaStrings,
    CommonSettings,
    PostgresSettings,
    RedisSettings,
    SettingsError,
    SigningSettings,
    load,
)

AMQP_URL = "amqp://guest:hunter2@broker:5672/"


class BellSettings(CommonSettings, PostgresSettings, RedisSettings):
    admin_port: AdminPort = 9109
    retry_schedule_s: CommaFloats = (5.0,)
    digest_to: CommaStrings = ()
    legacy_success: Literal["200", "2xx"] = "2xx"


GOOD = {
    "CARILLON_AMQP_URL": AMQP_URL,
    "CARILLON_POSTGRES_URL": "postgres://carillon:hunter2@postgres/carillon",
    "CARILLON_REDIS_URL": "redis://:hunter2@redis/0",
}


def complaints(environ: dict[str, str], secrets_dir: Path = Path("/nowhere")) -> list[str]:
    with pytest.raises(SettingsError) as refused:
        load(BellSettings, environ, secrets_dir=secrets_dir)
    return str(refused.value).splitlines()


def test_what_is_set_is_read_and_what_is_not_has_its_default() -> None:
    settings = load(BellSettings, GOOD | {"CARILLON_ADMIN_PORT": "9200", "PATH": "/bin"})

    assert settings.amqp_url.get_secret_value() == AMQP_URL
    assert settings.admin_port == 9200
    assert settings.drain_s == 30
    assert settings.replica


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)

    assert load(BellSettings).postgres_url.get_secret_value() == GOOD["CARILLON_POSTGRES_URL"]


def test_only_the_given_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARILLON_AMQP_URL", AMQP_URL)

    assert len(complaints({})) == 3


def test_all_mistakes_are_told_at_once_one_line_each() -> None:
    lines = complaints(
        {
            "CARILLON_REDIS_URL": GOOD["CARILLON_REDIS_URL"],
            "CARILLON_POSTGRES_URL": "mysql://root:hunter2@db/x",
            "CARILLON_ADMIN_PORT": "many",
            "CARILLON_RETENTON_DAYS": "7",
        }
    )

    assert len(lines) == 4
    assert {line.partition(":")[0] for line in lines} == {
        "CARILLON_RETENTON_DAYS",
        "CARILLON_AMQP_URL",
        "CARILLON_ADMIN_PORT",
        "CARILLON_POSTGRES_URL",
    }


def test_an_unknown_variable_is_refused_with_the_nearest_known_one() -> None:
    [line] = complaints(GOOD | {"CARILLON_RETENTON_DAYS": "7"})

    assert "no service knows" in line
    assert "CARILLON_RETENTION_DAYS" in line


def test_a_variable_of_another_service_may_stand_in_the_same_environment() -> None:
    load(BellSettings, GOOD | {"CARILLON_SMTP_URL": "smtp://mail", "CARILLON_API_KEY": "k"})


def test_a_missing_variable_says_how_to_set_it() -> None:
    [line] = complaints({name: value for name, value in GOOD.items() if "AMQP" not in name})

    assert line.startswith("CARILLON_AMQP_URL: is not set; set it or write /run/secrets/carillon_amqp_url")
    assert "amqp://user:password@host" in line


def test_an_empty_variable_counts_as_absent() -> None:
    assert load(BellSettings, GOOD | {"CARILLON_ADMIN_PORT": ""}).admin_port == 9109
    assert "is not set" in complaints(GOOD | {"CARILLON_AMQP_URL": ""})[0]


def test_a_wrong_value_is_shown_unless_it_is_secret() -> None:
    [port] = complaints(GOOD | {"CARILLON_ADMIN_PORT": "many"})
    [url] = complaints(GOOD | {"CARILLON_AMQP_URL": "http://u:hunter2@broker"})

    assert "'many'" in port
    assert "amqp:// or amqps://" in url
    assert "hunter2" not in url


def test_a_validator_that_quotes_a_secret_does_not_reveal_it() -> None:
    class Chatty(BellSettings):
        @field_validator("redis_url")
        @classmethod
        def refuse(cls, value: SecretStr) -> SecretStr:
            raise ValueError(f"never {value.get_secret_value()}")

    with pytest.raises(SettingsError) as refused:
        load(Chatty, GOOD)

    assert "hunter2" not in str(refused.value)
    assert "<hidden>" in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_secret_comes_from_a_file_and_the_environment_wins_over_it(tmp_path: Path) -> None:
    (tmp_path / "carillon_amqp_url").write_text("amqp://from-file\n")
    (tmp_path / "CARILLON_REDIS_URL").write_text("redis://from-file")
    environ = {name: value for name, value in GOOD.items() if "AMQP" not in name}

    settings = load(BellSettings, environ, secrets_dir=tmp_path)

    assert settings.amqp_url.get_secret_value() == "amqp://from-file"
    assert settings.redis_url.get_secret_value() == GOOD["CARILLON_REDIS_URL"]


@pytest.mark.filterwarnings("error")
def test_a_machine_without_secrets_folder_starts_without_a_warning(tmp_path: Path) -> None:
    load(BellSettings, GOOD, secrets_dir=tmp_path / "none")


@pytest.mark.parametrize(("given", "read"), [("DEBUG", "debug"), ("Warning", "warning")])
def test_a_log_level_may_be_written_in_any_case(given: str, read: str) -> None:
    assert load(BellSettings, GOOD | {"CARILLON_LOG_LEVEL": given}).log_level == read


def test_a_list_is_written_with_commas() -> None:
    settings = load(
        BellSettings,
        GOOD | {"CARILLON_RETRY_SCHEDULE_S": "0.5, 5,15,", "CARILLON_DIGEST_TO": "a@x.org,b@x.org"},
    )

    assert settings.retry_schedule_s == (0.5, 5.0, 15.0)
    assert settings.digest_to == ("a@x.org", "b@x.org")


def test_a_wrong_item_of_a_list_is_named() -> None:
    [line] = complaints(GOOD | {"CARILLON_RETRY_SCHEDULE_S": "5,soon"})

    assert line.startswith("CARILLON_RETRY_SCHEDULE_S:")
    assert "'soon'" in line


def test_secrets_do_not_show_in_the_settings_printed() -> None:
    assert "hunter2" not in repr(load(BellSettings, GOOD))


@pytest.mark.parametrize(
    "key", ["short", "0123456789" * 3, "0" * 64, "CHANGE-ME-CHANGE-ME-CHANGE-ME-CHANGE-ME", " " * 40]
)
def test_a_signing_key_that_could_be_guessed_is_refused_with_the_remedy_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match=r"^CARILLON_SIGNING_MASTER_KEY: should be random.*openssl rand") as refused:
        load(SigningSettings, {"CARILLON_SIGNING_MASTER_KEY": key})
    assert key not in str(refused.value)


def test_a_signing_key_that_is_missing_is_asked_for_with_the_remedy() -> None:
    with pytest.raises(SettingsError, match=r"^CARILLON_SIGNING_MASTER_KEY: is not set.*openssl rand -base64 32"):
        load(SigningSettings, {})


@pytest.mark.parametrize("make", [lambda n: os.urandom(n).hex(), lambda n: base64.b64encode(os.urandom(n)).decode()])
def test_a_signing_key_is_the_same_from_a_file_and_from_the_environment(
    tmp_path: Path, make: Callable[[int], str]
) -> None:
    key = make(32)
    (tmp_path / "carillon_signing_master_key").write_text(f"{key}\n")
    from_file = load(SigningSettings, {}, secrets_dir=tmp_path)
    from_environment = load(SigningSettings, {"CARILLON_SIGNING_MASTER_KEY": f" {key} "})
    assert from_file == from_environment
    assert from_file.signing_master_key.get_secret_value() == key
