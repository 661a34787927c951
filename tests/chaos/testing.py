"""A chaos run as a test: on ports that are free, skipped at home where no stack comes up, failed in CI."""

import os
from dataclasses import replace

import pytest

from deploy.local.errors import StackError
from tests.chaos.report import Report
from tests.chaos.run import FOLDER, Run, chaos
from tests.local.offsets import free_offset


def report_of(run: Run, name: str) -> Report:
    folder = FOLDER.with_name(f"chaos-{name}")
    try:
        return chaos(replace(run, folder=folder, port_offset=free_offset(run.replicas)), print)
    except StackError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
