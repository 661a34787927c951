"""What a dispatcher process is told."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from libs.common.ports import ADMIN_PORTS
from libs.common.settings import (
    AdminPort,
    CommonSettings,
    EgressSettings,
    LadderSettings,
    RedisSettings,
    SigningSettings,
)
from services.dispatcher.guard import ssl_context

_PROXY = re.compile(r"http://[^\s/?#]+:\d{1,5}/?")


def _holds_certificates(file: Path | None) -> Path | None:
    try:
        ssl_context(file)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"no certificates can be read from it ({error.strerror or error})") from None
    return file


def _a_proxy(url: SecretStr | None) -> SecretStr | None:
    if url is not None and not _PROXY.fullmatch(url.get_secret_value()):
        raise ValueError("should be like http://user:password@host:3128")
    return url


def _pairs(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [tuple(part.strip() for part in text.split("=", 1)) for text in value.split(",") if text.strip()]
    if not all(len(pair) == 2 and pair[0] for pair in pairs):
        raise ValueError("should be like severity=critical, with commas between such pairs")
    return tuple(pairs)


class DispatcherSettings(CommonSettings, RedisSettings, LadderSettings, SigningSettings, EgressSettings):
    admin_port: AdminPort = ADMIN_PORTS["dispatcher"]
    concurrency: int = Field(200, ge=1, le=10_000, description="Calls in flight at once, in tasks.")
    concurrency_per_host: int = Field(100, ge=1, le=10_000, description="Of these, to one host.")
    ca_file: Annotated[Path | None, AfterValidator(_holds_certificates)] = Field(
        None, description="File of CA certificates (PEM) that targets may have, beside the system's."
    )
    egress_proxy: Annotated[SecretStr | None, AfterValidator(_a_proxy)] = Field(
        None, description="Proxy for all calls, as http://user:password@host:port; it then resolves their names."
    )
    urgent_labels: Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(_pairs)] = Field(
        (), description="Labels, as name=value with commas between, whose tasks are told of at once when they fail."
    )
