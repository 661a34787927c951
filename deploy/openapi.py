"""docs/openapi.json, the public interface as a file: `python -m deploy.openapi` writes it.

What an endpoint is depends on no server and no setting, so the doors are asked without being opened.
"""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import services.ingest
from libs.common.version import VERSION
from services.ingest.endpoint import Endpoint
from services.ingest.openapi import document

FILE = Path(__file__).parent.parent / "docs" / "openapi.json"


def endpoints() -> list[Endpoint]:
    """Those of every door there is; a test compares with what is served."""
    return [endpoint for door in _doors() for endpoint in object.__new__(door).endpoints()]


def text() -> str:
    encoded = msgspec.json.encode(document(endpoints(), VERSION))
    return f"{msgspec.json.format(encoded).decode()}\n"


def _doors() -> Iterator[Any]:
    for module in pkgutil.iter_modules(services.ingest.__path__, "services.ingest."):
        if module.name.endswith("_door"):
            for _name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if kind.__module__ == module.name and hasattr(kind, "endpoints"):
                    yield kind


def main() -> int:
    FILE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
