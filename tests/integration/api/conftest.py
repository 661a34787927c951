from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api.served import Served, served_by


@pytest.fixture(scope="module")
def served(
    servers: dict[str, str], _migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Of one module: what other modules put into the queues is not for these processes."""
    folder: Path = tmp_path_factory.mktemp("served")
    with served_by(servers, _migrated_template, folder) as served:
        yield served
