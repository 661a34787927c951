"""From values to HTML: the templates, what all of them know, and how times, durations and states are written."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

import aiohttp_jinja2
import jinja2
from aiohttp import web
from markupsafe import Markup

from libs.common.clock import format_utc
from libs.common.redis import RedisAway
from libs.common.version import VERSION
from services.ingest.console.page import CSRF_FIELD, PROJECT_FIELD, ROOT, VISITOR
from services.ingest.console.sessions import Flash, Sessions
from services.ingest.console.visible import one_line, visible

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"

SESSIONS = web.AppKey("console_sessions", Sessions)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would take the Origin from forms
    "Cache-Control": "no-store",
}


async def render(request: web.Request, template: str, *, status: int = 200, **values: object) -> web.Response:
    """The page, with what is to be told to its visitor. A part that htmx asks for is told nothing."""
    visitor = request.get(VISITOR)
    is_part = "HX-Request" in request.headers
    flashes: list[Flash] = []
    if visitor is not None and not is_part:
        with suppress(RedisAway):  # told by a later page, then
            flashes = await request.config_dict[SESSIONS].told(visitor.session)
    context = {
        "visitor": visitor,
        "csrf": visitor.session.csrf if visitor else "",
        "flashes": flashes,
        "is_part": is_part,
        "path": request.path.removeprefix(ROOT) or "/",
        "here": str(request.rel_url),
        **values,
    }
    response = aiohttp_jinja2.render_template(template, request, context, status=status)
    response.headers.update(HEADERS)
    return response


def set_up(app: web.Application) -> None:
    environment = aiohttp_jinja2.setup(
        app,
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"moment": moment, "duration": duration, "late": late, "number": number, "badge": badge}
    environment.filters |= {"visible": visible, "one_line": one_line}
    environment.globals |= {"csrf_field": csrf_field, "static": static_path, "root": ROOT, "version": VERSION}


def static_path(name: str) -> str:
    """Where a file of `static/` is served. Another content has another path, so browsers may keep it for ever."""
    return f"{ROOT}/static/{_fingerprint(name)}/{name}"


@cache
def _fingerprint(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


@jinja2.pass_context
def csrf_field(context: jinja2.runtime.Context) -> Markup:
    """What every form that changes something holds: the session's token, and the project that the page showed."""
    visitor = context["visitor"]
    hidden = Markup('<input type="hidden" name="{}" value="{}">')
    return hidden.format(CSRF_FIELD, context["csrf"]) + hidden.format(PROJECT_FIELD, visitor.project if visitor else "")


def badge(status: str) -> Markup:
    """A task's status, by word and colour."""
    return Markup('<span class="status {}">{}</span>').format(status, status)


def moment(at: datetime | None, empty: str = "") -> Markup | str:
    """A time, in UTC; console.js shows it in the viewer's zone, and how far off it is."""
    if at is None:
        return empty
    text = at.strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}" title="{} UTC">{} UTC</time>').format(format_utc(at), text, text)


def duration(ms: float | None, empty: str = "") -> str:
    """Milliseconds as people write them: 85 ms, 1.3 s, 4 min 5 s, 3 h 12 min, 9 d 3 h."""
    if ms is None:
        return empty
    if ms < 0:
        return f"-{duration(-ms)}"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next(index for index, (count, _unit) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def late(ms: float | None) -> str:
    """How much later than due a task was called."""
    return "" if ms is None else f"{duration(max(ms, 0))} late"


def number(value: float) -> str:
    """With thin spaces between thousands."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
