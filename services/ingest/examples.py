"""A body of each kind that clients send, for the document and the page at /docs. Every one is taken as it stands."""

from collections.abc import Mapping
from typing import Any

from services.ingest.batch_door import NewBatch
from services.ingest.bulk_door import BulkCommand, PurgeCommand
from services.ingest.fallback_door import NewNotice
from services.ingest.key_door import Rotate
from services.ingest.keyring import NewKey
from services.ingest.legacy_door import LegacyForm
from services.ingest.parked_door import DropParked
from services.ingest.requests import NewTask, NewTime
from services.ingest.schedules import NewPreview, NewSchedule
from services.ingest.signing_secrets import RotateSecret
from services.ingest.target_rules import Limit

EXAMPLES: Mapping[type, Any] = {
    NewTask: {"url": "https://example.com/remind", "delay": "90s", "body": {"order": 42}},
    NewTime: {"delay": "2h"},
    NewBatch: {"tasks": [{"url": "https://example.com/a"}, {"url": "https://example.com/b", "delay": "5m"}]},
    BulkCommand: {"filter": {"label.order": "42"}, "dry_run": True},
    PurgeCommand: {"ids": ["0199c0de-1111-7222-8333-444455556666"], "dry_run": True},
    DropParked: {"reason": "made by a client that is gone"},
    NewSchedule: {"cron": "0 9 * * MON-FRI", "timezone": "Europe/Berlin", "task": {"url": "https://example.com/daily"}},
    NewPreview: {"cron": "30 2 * * *", "timezone": "Europe/Berlin", "count": 5},
    NewKey: {"name": "shop", "scopes": ["tasks:write", "tasks:read"]},
    Rotate: {"overlap_s": 86400},
    Limit: {"per_s": 10, "burst": 20},
    RotateSecret: {"overlap_s": 86400},
    NewNotice: {"subject": "disk", "message": "The disk of db-1 is almost full."},
    LegacyForm: {"notify_url": "https://example.com/remind", "plan_time": 1803891600, "method_name": "get"},
    str: "The disk of db-1 is almost full.",
}
