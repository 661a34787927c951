"""What the mailer refuses to be told, and that it says so before it starts."""

from pathlib import Path

import pytest

from libs.common.settings import SettingsError, load
from services.mailer.settings import MailerSettings
from services.mailer.smtp import SmtpServer

GOOD = {
    "CARILLON_AMQP_URL": "amqp://guest:guest@localhost/",
    "CARILLON_SMTP_URL": "smtp+starttls://me:p%40ss@mail.example.org",
    "CARILLON_DIGEST_TO": "ops@example.org, boss@example.org",
    "CARILLON_DIGEST_FROM": "carillon@example.org",
}


def loaded(tmp_path: Path, **changes: str) -> MailerSettings:
    environ = GOOD | {f"CARILLON_{name}": value for name, value in changes.items()}
    return load(MailerSettings, environ, secrets_dir=tmp_path / "none")


def test_the_defaults(tmp_path: Path) -> None:
    settings = loaded(tmp_path)
    assert settings.admin_port == 9104
    assert settings.digest_to == ("ops@example.org", "boss@example.org")
    assert (settings.digest_cron, settings.digest_timezone) == ("0 8 * * *", "UTC")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DIGEST_CRON", "every day", "is no cron expression of 5 or 6 fields"),
        ("DIGEST_TIMEZONE", "Mars/Base", "is no IANA time zone"),
        ("DIGEST_TO", " , ", "should name at least one mail address"),
        ("DIGEST_TO", "ops@example.org,nobody", "should be a plain mail address"),
        ("DIGEST_TO", "ops@example.org\r\nBcc: x@example.org", "should be a plain mail address"),
        ("DIGEST_FROM", "a\x00@example.org", "should be a plain mail address"),
        ("DIGEST_FROM", "Carillon <carillon@example.org>", "should be a plain mail address"),
        ("SMTP_URL", "http://mail.example.org", "should be smtp://host, smtp[+]starttls://host, smtps://host"),
        ("SMTP_URL", "smtp:mail", "should be smtp://host"),
        ("SMTP_URL", "smtp://me:hunter2@mail:port", "cannot be read as a URL"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(tmp_path: Path, name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as refusal:
        loaded(tmp_path, **{name: value})
    assert str(refusal.value).startswith(f"CARILLON_{name}: ")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://localhost", SmtpServer("smtp", "localhost", 25)),
        ("smtp://127.0.0.1:1025", SmtpServer("smtp", "127.0.0.1", 1025)),
        ("smtp+starttls://me:p%40ss@mail", SmtpServer("smtp+starttls", "mail", 587, "me", "p@ss")),
        ("smtps://me:x@mail", SmtpServer("smtps", "mail", 465, "me", "x")),
    ],
)
def test_the_url_says_how_the_mail_server_is_reached(url: str, expected: SmtpServer) -> None:
    assert SmtpServer.from_url(url) == expected
    assert "p@ss" not in repr(expected)
