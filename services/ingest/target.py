"""What may be called: the rules for a task's URL and headers. Pure; every fault is reported, not the first only.

Of the address only what the URL itself says is looked at: what a name stands for the dispatcher checks, when it calls.
"""

import re
from collections.abc import Iterator, Mapping

from yarl import URL

from libs.common.egress import EgressRules
from services.ingest.problems import FieldError, escaped

URL_CHARS_MAX = 2048
HEADERS_MAX = 50
HEADERS_BYTES_MAX = 8 * 1024

URL_CHARACTERS = re.compile(r"[^\x00-\x20\x7f\\]*")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
MEDIA_TYPE = re.compile(rf"{TOKEN.pattern}/{TOKEN.pattern}[ \t]*(;{HEADER_VALUE.pattern})?")
_USERINFO = re.compile(r"[^/?#]*//[^/?#]*@")

# Ours to set, or they belong to one connection (RFC 9110 section 7.6.1), or they would smuggle.
RESERVED = frozenset(
    "host content-length transfer-encoding connection keep-alive te trailer upgrade expect idempotency-key forwarded"
    " cookie".split()
)
RESERVED_PREFIXES = ("proxy-", "webhook-", "carillon-", "x-forwarded-")


def url_errors(url: str, egress: EgressRules, pointer: str = "/url") -> Iterator[FieldError]:
    if len(url) > URL_CHARS_MAX:
        yield FieldError(pointer, "too_long", f"has {len(url)} characters; use at most {URL_CHARS_MAX}")
    elif not URL_CHARACTERS.fullmatch(url):
        detail = "contains a space, a backslash or a control character; percent-encode it"
        yield FieldError(pointer, "bad_character", detail)
    else:
        yield from _structure_errors(url, egress, pointer)


def header_errors(headers: Mapping[str, str]) -> Iterator[FieldError]:
    if len(headers) > HEADERS_MAX:
        yield FieldError("/headers", "too_many", f"are {len(headers)}; send at most {HEADERS_MAX}")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in headers.items())
    if size > HEADERS_BYTES_MAX:
        yield FieldError("/headers", "too_large", f"have {size} bytes; send at most {HEADERS_BYTES_MAX}")
    seen: set[str] = set()
    for name, value in headers.items():
        yield from _header_errors(name, value)
        if name.lower() in seen:
            yield FieldError(f"/headers/{escaped(name)}", "duplicate", "stands twice; keep one")
        seen.add(name.lower())


def content_type_errors(content_type: str | None, headers: Mapping[str, str]) -> Iterator[FieldError]:
    if content_type is None:
        return
    if not MEDIA_TYPE.fullmatch(content_type):
        yield FieldError("/content_type", "bad_media_type", "is no media type; write it as application/json")
    if any(name.lower() == "content-type" for name in headers):
        yield FieldError("/content_type", "conflict", "stands in headers too; give it once")


def _structure_errors(url: str, egress: EgressRules, pointer: str) -> Iterator[FieldError]:
    try:
        parsed = URL(url)
        host, scheme, port = parsed.host, parsed.scheme, parsed.port
    except ValueError:
        yield FieldError(pointer, "bad_url", "is no URL; write it as https://example.com/path")
        return
    if scheme not in {"http", "https"}:
        yield FieldError(pointer, "bad_scheme", "begins with another scheme; only http and https are called")
    elif not host:
        yield FieldError(pointer, "no_host", "names no host; write it as https://example.com/path")
    elif refusal := egress.host_refusal(host, port or 0):
        yield FieldError(pointer, "blocked_address", f"cannot be called: {refusal}")
    if _USERINFO.match(url):  # yarl forgets an empty one
        yield FieldError(pointer, "userinfo", "contains a user or password; send an Authorization header instead")
    if "#" in url:
        yield FieldError(pointer, "fragment", "contains a fragment, which is never sent; remove it from # on")


def _header_errors(name: str, value: str) -> Iterator[FieldError]:
    pointer = f"/headers/{escaped(name)}"
    lower = name.lower()
    if not TOKEN.fullmatch(name):
        yield FieldError(pointer, "bad_name", "is no header name; use letters, digits and -")
    elif lower in RESERVED or lower.startswith(RESERVED_PREFIXES):
        yield FieldError(pointer, "reserved", "is set by Carillon or belongs to one connection; remove it")
    if not HEADER_VALUE.fullmatch(value):
        yield FieldError(pointer, "bad_value", "contains a control character; remove it")
