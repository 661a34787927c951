"""The seam to aiosmtplib: one mail to one server, and its errors as what the caller must do.

TLS is what the URL says and never what the server offers: an attacker in between would offer none. A private CA and a
client certificate are named as in an amqps URL: `?cafile=...&certfile=...&keyfile=...`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Literal, NamedTuple, Self, get_args

import aiosmtplib
import structlog
from yarl import URL

from libs.common.tls import tls_trouble

CONNECT_S = 10.0
# Each command of the mail itself. A server that scans mails answers DATA late (RFC 5321 section 4.5.3.2.6 allows
# 10 minutes), and one cut off before its 250 gets the same mail again and again.
TRANSFER_S = 60.0
PERMANENT = 500

Scheme = Literal["smtp", "smtp+starttls", "smtps"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
_PORTS: dict[Scheme, int] = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_FILES = frozenset({"cafile", "certfile", "keyfile"})
_NO = (aiosmtplib.SMTPResponseException, aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPNotSupported)

log = structlog.get_logger(__name__)


class NotSent(Exception):
    """There is no 250 for this mail."""

    outcome = "away"


class MailAway(NotSent):
    """No answer, or no connection: it may have arrived or not. Send the same mail again."""


class MailRefused(NotSent):
    """The server said no: to us, to the sender, to every recipient or to the mail."""

    outcome = "refused"


class LoginRefused(NotSent):
    """User or password are wrong. Asking again and again locks accounts."""

    outcome = "login"


class Sent(NamedTuple):
    """The server has the mail for somebody. `later` were put off (4xx), `never` refused for good (5xx)."""

    later: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


@dataclass(frozen=True)
class SmtpServer:
    """`smtp` is never encrypted, `smtp+starttls` insists on STARTTLS, `smtps` is TLS from the first byte."""

    scheme: Scheme
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @classmethod
    def from_url(cls, text: str) -> Self:
        """Raises: ValueError, without quoting the URL."""
        try:
            url = URL(text)
            port = url.explicit_port
        except ValueError:
            raise ValueError("cannot be read as a URL") from None
        if url.scheme not in SCHEMES or url.host is None:
            raise ValueError(f"should be {', '.join(f'{scheme}://host' for scheme in SCHEMES)}")
        if set(url.query) - _FILES:
            raise ValueError(f"has parameters other than {', '.join(sorted(_FILES))}")
        port = _PORTS[url.scheme] if port is None else port
        return cls(url.scheme, url.host, port, url.user, url.password, **url.query)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    async def send(self, message: EmailMessage, recipients: Sequence[str]) -> Sent:
        """Return when the server has taken the mail for at least one recipient.

        Raises: NotSent (`MailAway`, `MailRefused` or `LoginRefused`).
        """
        try:
            async with self._client() as client:
                refused, _ = await client.sendmail(
                    message["From"].addresses[0].addr_spec, recipients, message.as_bytes(), timeout=TRANSFER_S
                )
        except aiosmtplib.SMTPAuthenticationError as error:
            raise LoginRefused(f"{self} refused user or password: {error}") from error
        except _NO as error:
            raise MailRefused(f"{self} refused the mail: {error}") from error
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            why = tls_trouble(error) or str(error) or type(error).__name__
            raise MailAway(f"{self} gave no answer: {why}") from error
        for recipient, (code, text) in refused.items():
            log.error("mail.recipient-refused", server=str(self), recipient=recipient, code=code, reason=text)
        return Sent(
            later=tuple(sorted(recipient for recipient, (code, _text) in refused.items() if code < PERMANENT)),
            never=tuple(sorted(recipient for recipient, (code, _text) in refused.items() if code >= PERMANENT)),
        )

    def _client(self) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname=self.host,
            port=self.port,
            username=self.user,
            password=self.password,
            use_tls=self.scheme == "smtps",
            start_tls=self.scheme == "smtp+starttls",
            cert_bundle=self.cafile,
            client_cert=self.certfile,
            client_key=self.keyfile,
            timeout=CONNECT_S,
        )
