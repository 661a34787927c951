"""What was posted, and where to go from there."""

from contextlib import suppress

from aiohttp import web
from multidict import MultiDictProxy

from libs.common.redis import RedisAway
from services.ingest.console.guard import FORM, NOTE
from services.ingest.console.page import ROOT, visitor_of
from services.ingest.console.render import SESSIONS
from services.ingest.console.sessions import Flash, Kind


def posted(request: web.Request) -> MultiDictProxy[str]:
    """The fields of the form, as they were sent; any of them may be there twice, or not at all."""
    return request[FORM]


def field_of(request: web.Request, name: str) -> str:
    """One field's text; "" when it is not there, or is a file."""
    value = request[FORM].get(name, "")
    return value.strip() if isinstance(value, str) else ""


def secret_of(request: web.Request, name: str) -> str:
    """A password, to the letter."""
    value = request[FORM].get(name, "")
    return value if isinstance(value, str) else ""


async def back(request: web.Request, path: str, *, told: str, kind: Kind = "done") -> web.Response:
    """To `path` below /console, which will tell what came of it."""
    if kind == "failed":
        request[NOTE].outcome = request[NOTE].outcome or "failed"
    with suppress(RedisAway):  # what was done is done, told or not
        await request.config_dict[SESSIONS].tell(visitor_of(request).session, Flash(told, kind))
    return web.Response(status=303, headers={"Location": ROOT + path})
