"""Tools that tests of the deployment run."""

import os
import shutil

import pytest

from deploy.local.debian import unpacked_alone
from deploy.local.errors import StackError
from tests.deploy.prometheus import ROOT


@pytest.fixture(scope="session")
def promtool() -> str:
    """The one on PATH, else out of the system's package of Prometheus."""
    if on_path := shutil.which("promtool"):
        return on_path
    try:
        root = unpacked_alone("prometheus", ROOT / ".local" / "prometheus")
    except StackError as error:
        return _missing(f"no promtool: {error}")
    return str(root / "usr" / "bin" / "promtool") if root else _missing("no promtool on PATH, and no Debian packages")


def _missing(reason: str) -> str:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
