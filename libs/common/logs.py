"""One JSON object per line on stdout (a readable page on a terminal), from our code and from the libraries.

Answers for: what stands on every line (service, replica, timestamp, the correlation ids bound by
`structlog.contextvars`), and what never does (secrets, passwords in URLs, local variables of a traceback).
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TextIO

import msgspec
import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

from libs.common.clock import SystemClock, format_utc

HIDDEN = "<hidden>"

_PLAIN = (int, float, type(None))

_SECRET_KEY = re.compile(r"authorization|secret|token|cookie|signature|password|api_key", re.IGNORECASE)
# Greedy up to the last @ before the path: an unescaped @ in a password must not leave its tail behind.
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#]*@", re.IGNORECASE)


def configure_logs(service: str, replica: str, level: str) -> None:
    """Send every log line of this process to stdout, ours from `level` up, the libraries' from warning up."""
    console = sys.stdout.isatty()
    enrich = _enrichers(service, replica, console=console)
    renderer = _console_renderer() if console else structlog.processors.JSONRenderer(serializer=_as_json)
    structlog.configure(
        processors=[*enrich, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        # A logger remembers nothing: a second configure (a test, a fallback) must reach those already used.
        cache_logger_on_first_use=False,
    )
    _route_stdlib(sys.stdout, enrich, renderer)


def redacted(value: Any) -> Any:
    """`value` without passwords in URLs and without what stands under a secret-looking key, at any depth."""
    if isinstance(value, str):
        return _USERINFO.sub(rf"\1{HIDDEN}@", value) if "://" in value else value
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(key, str) and _is_secret(key) else redacted(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return value


@lru_cache(maxsize=1024)  # the names are few, the lines many
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


def _enrichers(service: str, replica: str, *, console: bool) -> list[Processor]:
    def add_origin(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"], event["replica"] = service, replica
        return event

    exceptions: Processor = (
        structlog.processors.format_exc_info
        if console
        else structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    )
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        add_origin,
        _add_timestamp,
        exceptions,
        _redact,  # last: an exception's text may quote a URL
    ]


def _add_timestamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["timestamp"] = format_utc(SystemClock().now())
    return event


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    hidden: EventDict = redacted(event)
    return hidden


def _console_renderer() -> Processor:
    return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)


def _as_json(event: EventDict, default: Callable[[Any], Any], **_options: Any) -> str:
    try:
        return msgspec.json.encode(event, enc_hook=default).decode()
    except (TypeError, ValueError, OverflowError):
        # A lone surrogate or an odd key, which msgspec refuses: a log line must never raise.
        return json.dumps(event, default=repr, skipkeys=True)


def _route_stdlib(stream: TextIO, enrich: list[Processor], renderer: Processor) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *enrich],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    # Our own `connection.failed` says it once; the library would say it again, as an error, at each attempt.
    logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)
    logging.captureWarnings(True)
