"""Debian's Chromium, unpacked below .local/chromium/ at first use (113 MB from the packages, 332 MB on disk): no root,
nothing installed, and the same browser and font on every machine. Elsewhere the one on PATH.

The package is the headless shell: the browser without its windows, and so without GTK.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from playwright.async_api import Browser, async_playwright

from deploy.local.debian import unpacked_with_libraries
from deploy.local.errors import StackError
from deploy.local.layout import PROJECT

PACKAGE = "chromium-headless-shell"
# Its data files; one font, as without any a page is blank; and a library that Playwright's own node needs.
ALSO = ("chromium-common", "fonts-dejavu-core", "libatomic1")
ON_PATH = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# A container has no user namespaces to give; the pages are our own. And no calls home.
ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
LIBRARIES = ("lib/*-linux-*", "usr/lib/*-linux-*", "usr/lib/*-linux-*/pulseaudio")
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


@dataclass(frozen=True)
class Chromium:
    """The program, and what must be in the environment of whatever starts it."""

    program: str
    environ: dict[str, str]


def chromium(work: Path) -> Chromium:
    """`work` is a folder for what it may write. Raises: StackError."""
    reason = "packages are not Debian's"
    try:
        if root := unpacked_with_libraries(PACKAGE, ALSO, PROJECT / ".local" / "chromium"):
            return _unpacked(root, work)
    except StackError as error:
        reason = str(error)
    if on_path := next(filter(None, map(shutil.which, ON_PATH)), None):
        return Chromium(on_path, {})
    raise StackError(f"no Chromium on PATH, and {reason}")


@asynccontextmanager
async def browser(found: Chromium) -> AsyncIterator[Browser]:
    # Not longer than the start: no other process of the tests shall load these libraries.
    with patch.dict(os.environ, found.environ):
        playwright = await async_playwright().start()
    try:
        started = await playwright.chromium.launch(executable_path=found.program, args=ARGUMENTS)
        yield started
        await started.close()
    finally:
        await playwright.stop()


def _unpacked(root: Path, work: Path) -> Chromium:
    fonts = work / "fonts.conf"
    fonts.write_text(FONTS.format(fonts=root / "usr" / "share" / "fonts", cache=work / "fonts"))
    libraries = ":".join(str(folder) for places in LIBRARIES for folder in root.glob(places))
    return Chromium(
        program=str(root / "usr" / "lib" / "chromium" / PACKAGE),
        environ={"LD_LIBRARY_PATH": libraries, "FONTCONFIG_FILE": str(fonts)},
    )
