"""Entries and pages as they travel, to be varied by each test."""

from datetime import UTC, datetime
from uuid import UUID

from libs.common.contracts import DigestPage, FailedTask, Notice

AT = datetime(2027, 3, 1, 8, 0, 0, 123_000, tzinfo=UTC)
PAGE_ID = UUID("01957000-0000-7000-8000-000000000001")


def failed(number: int = 1, **changes: object) -> FailedTask:
    fields: dict[str, object] = {
        "id": UUID(int=number),
        "project": "shop",
        "generation": 1,
        "state": "failed",
        "method": "POST",
        "url": "https://shop.example.com/hook",
        "due_at": AT,
        "failed_at": AT,
        "attempts": 7,
        "status_code": 503,
        "error": "status",
    }
    return FailedTask(**(fields | changes))  # type: ignore[arg-type]  # a test says what it changes


def notice(number: int = 1, subject: str = "Disk", message: str = "nearly full") -> Notice:
    return Notice(id=UUID(int=number), project="shop", created_at=AT, subject=subject, message=message)


def page(*entries: FailedTask | Notice, number: int = 1, tries: int = 0) -> DigestPage:
    return DigestPage(
        id=PAGE_ID,
        created_at=AT,
        number=number,
        tries=tries,
        failed=tuple(entry for entry in entries if isinstance(entry, FailedTask)),
        notices=tuple(entry for entry in entries if isinstance(entry, Notice)),
    )
