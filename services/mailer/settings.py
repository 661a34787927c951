"""What a mailer process is told."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.common.ports import ADMIN_PORTS
from libs.common.settings import AdminPort, CommaStrings, CommonSettings, PublicSettings
from services.mailer.schedule import Schedule
from services.mailer.smtp import SmtpServer

# Narrower than RFC 5321 (no quoted local parts, no address literals): nothing in it can end a header or a command.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
_ADDRESS_CHARACTERS_MAX = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets


def _address(text: str) -> str:
    if len(text) > _ADDRESS_CHARACTERS_MAX or not _ADDRESS.fullmatch(text):
        raise ValueError("should be a plain mail address such as ops@example.com")
    return text


def _addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not texts:
        raise ValueError("should name at least one mail address")
    return tuple(_address(text) for text in texts)


def _routes(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        project, equals, address = text.partition("=")
        if not equals or not project.strip():
            raise ValueError("should be project=address, with commas between such pairs")
        _address(address.strip())
    return texts


def _readable(url: SecretStr) -> SecretStr:
    SmtpServer.from_url(url.get_secret_value())
    return url


def _cron(expression: str) -> str:
    Schedule(expression, "UTC")
    return expression


def _timezone(name: str) -> str:
    Schedule("0 0 * * *", name)
    return name


class MailerSettings(CommonSettings, PublicSettings):
    admin_port: AdminPort = ADMIN_PORTS["mailer"]
    smtp_url: Annotated[SecretStr, AfterValidator(_readable)] = Field(
        description="Mail server, as smtp://user:password@host:port (never encrypted), smtp+starttls:// or smtps://."
    )
    digest_to: Annotated[CommaStrings, AfterValidator(_addresses)] = Field(
        description="Who gets the digest: one mail address or several, with commas between."
    )
    digest_from: Annotated[str, AfterValidator(_address)] = Field(description="Mail address that the digest is from.")
    digest_cron: Annotated[str, AfterValidator(_cron)] = Field(
        "0 8 * * *", description="When the digest is sent: cron of 5 fields, or 6 with the seconds first."
    )
    digest_timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        "UTC", description="IANA time zone of the cron expression."
    )
    digest_to_projects: Annotated[CommaStrings, AfterValidator(_routes)] = Field(
        (),
        description="Who gets a project's part instead of CARILLON_DIGEST_TO: project=address, with commas between.",
    )

    @property
    def routes(self) -> dict[str, tuple[str, ...]]:
        """The readers of each project that has its own."""
        routes: dict[str, tuple[str, ...]] = {}
        for text in self.digest_to_projects:
            project, _, address = (part.strip() for part in text.partition("="))
            routes[project] = (*routes.get(project, ()), address)
        return routes
