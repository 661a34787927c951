"""See the package."""

from tests.local.fakes import run

run()
