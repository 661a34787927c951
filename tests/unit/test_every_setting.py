"""The settings of all services together."""

import pytest

from deploy.setup import SetupSettings
from libs.common.settings import KNOWN_VARIABLES, CommonSettings, variable_of
from libs.common.version import VERSION
from services.dispatcher.settings import DispatcherSettings
from services.ingest.settings import IngestSettings
from services.mailer.settings import MailerSettings
from services.scheduler.settings import SchedulerSettings
from tests.conftest import ROOT

OF_THE_CLIENT = {"CARILLON_URL", "CARILLON_KEY", "CARILLON_API_KEY"}
ALL = (IngestSettings, SchedulerSettings, DispatcherSettings, MailerSettings, SetupSettings)


def test_the_known_variables_are_those_of_some_service_or_the_client() -> None:
    of_services = {variable_of(name) for settings in ALL for name in settings.model_fields}
    assert of_services | OF_THE_CLIENT == KNOWN_VARIABLES


def test_the_readme_names_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = {name for name in KNOWN_VARIABLES - OF_THE_CLIENT if name not in readme}
    assert not missing


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings.__name__)
def test_every_setting_says_what_it_means(settings: type[CommonSettings]) -> None:
    assert not [name for name, field in settings.model_fields.items() if not field.description]


def test_the_version_is_the_same_everywhere() -> None:
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
