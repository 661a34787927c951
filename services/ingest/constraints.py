"""What is demanded of a field beyond its type, as JSON Schema, by the constants and patterns that it is checked with.

One number for the check and the document. What no schema can tell is left to the check: openapi.py lists it in words.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from libs.common import cron, duration
from services.ingest import fallback_door, keyring, limits, schedules, target, target_rules, times
from services.ingest.bulk_door import PurgeCommand
from services.ingest.fallback_door import NewNotice
from services.ingest.key_door import KeyQuery, KeysQuery, Rotate
from services.ingest.keyring import NewKey
from services.ingest.problems import ProblemDocument
from services.ingest.requests import Callbacks, Expect, LocalTime, NewTask, NewTime, Retry, TaskTemplate
from services.ingest.schedules import NewPreview, NewSchedule, Times
from services.ingest.signing_secrets import RotateSecret

Schema = dict[str, Any]


# Codes of refusals that no schema can tell before: what they depend on is the moment, the world, or several fields.
BEYOND: Mapping[str, str] = {
    "blocked_address": "an address that may not be called",
    "bad_url": "a host or port that is none",
    "too_far": "a time more than ten years ahead",
    "too_early": "an end before its beginning",
    "too_late": "a time after the task expires",
    "in_the_past": "an end that has passed",
    "not_a_time": "a day that the calendar does not have",
    "naive_time": "a time without an offset",
    "unknown_zone": "a zone that IANA does not know",
    "bad_cron": "an expression that cannot be read, or that never comes",
    "bad_interval": "an interval too short or too long",
    "reserved": "a header that is ours or the connection's: "
    + " ".join((*sorted(target.RESERVED), *(f"{prefix}*" for prefix in target.RESERVED_PREFIXES))),
    "duplicate": "a name that stands twice, or a header in two spellings",
    "too_large": f"headers of more than {target.HEADERS_BYTES_MAX} bytes together",
    "bad_host": "a host that is none",
    "empty_filter": "a filter that lets every task through, without saying so",
    "bad_status": "a status that the command is not for",
    "wrong_type": "7.0 where a whole number is meant: write 7",
}


def _pattern(rule: re.Pattern[str]) -> str:
    return f"^(?:{rule.pattern})$"


_CHARACTER = target.URL_CHARACTERS.pattern.removesuffix("]*")
URL: Schema = {
    "format": "uri",
    "maxLength": target.URL_CHARS_MAX,
    "pattern": rf"^[hH][tT][tT][pP][sS]?://{_CHARACTER}/?#@]+(?:[/?]{_CHARACTER}#]*)?$",
}
MOMENT: Schema = {"format": "date-time", "maxLength": times.LENGTH_MAX}
DELAY: Schema = {
    "pattern": f"^(?:{duration.SHORT.pattern}|(?=P.*[0-9]){duration.ISO.pattern})$",
    "maxLength": times.LENGTH_MAX,
}
_WALL_TIME = {"format": "date-time-local", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}"}

INTERVAL = {"minimum": cron.INTERVAL_MIN.total_seconds(), "maximum": cron.INTERVAL_MAX.total_seconds()}
OVERLAP = {"minimum": 0, "maximum": keyring.OVERLAP_S_MAX}
PROJECT = {"pattern": _pattern(keyring.PROJECT)}
# In filters, where a name that no task can have finds none.
ANY_LABEL_NAME = limits.NO_CONTROL.pattern.removesuffix("*") + f"{{1,{limits.LABEL_NAME_CHARS_MAX}}}"
_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

# By struct and field; the keywords go to the alternative that has their JSON type.
KEYWORDS: Mapping[type, Mapping[str, Mapping[str, Schema]]] = {
    TaskTemplate: {
        "url": {"string": URL},
        "headers": {
            "object": {
                "maxProperties": target.HEADERS_MAX,
                "propertyNames": {"pattern": _pattern(target.TOKEN)},
                "additionalProperties": {"type": "string", "pattern": _pattern(target.HEADER_VALUE)},
            }
        },
        "body_base64": {"string": {"contentEncoding": "base64", "pattern": _BASE64}},
        "content_type": {"string": {"pattern": _pattern(target.MEDIA_TYPE)}},
        "timeout_s": {"number": {"minimum": limits.TIMEOUT_S_MIN, "maximum": limits.TIMEOUT_S_MAX}},
        "labels": {
            "object": {
                "maxProperties": limits.LABELS_MAX,
                "propertyNames": {"pattern": _pattern(limits.LABEL_NAME), "maxLength": limits.LABEL_NAME_CHARS_MAX},
                "additionalProperties": {
                    "type": "string",
                    "pattern": _pattern(limits.NO_CONTROL),
                    "maxLength": limits.LABEL_VALUE_CHARS_MAX,
                },
            }
        },
    },
    NewTask: {
        "due_at": {"string": MOMENT},
        "delay": {"string": DELAY, "number": {"minimum": 0}},
        "expires_at": {"string": MOMENT},
    },
    NewTime: {"due_at": {"string": MOMENT}, "delay": {"string": DELAY, "number": {"minimum": 0}}},
    LocalTime: {"at": {"string": _WALL_TIME}},
    Retry: {
        "schedule_s": {
            "array": {
                "maxItems": limits.RETRIES_MAX,
                "items": {"type": "number", "minimum": 0, "maximum": limits.RETRY_DELAY_S_MAX},
            }
        }
    },
    Expect: {
        "status": {
            "array": {
                "minItems": 1,
                "maxItems": limits.STATUSES_MAX,
                "items": {"type": "string", "pattern": _pattern(limits.STATUS)},
            }
        },
        "body_contains": {"string": {"minLength": 1, "maxLength": limits.BODY_CONTAINS_CHARS_MAX}},
    },
    Callbacks: {"success": {"string": URL}, "failure": {"string": URL}},
    NewNotice: {
        "subject": {
            "string": {
                "minLength": 1,
                "maxLength": fallback_door.SUBJECT_CHARS_MAX,
                "pattern": _pattern(fallback_door.ONE_LINE),
            }
        },
        "message": {"string": {"minLength": 1, "maxLength": fallback_door.MESSAGE_CHARS_MAX}},
    },
    Times: {
        "cron": {"string": {"minLength": 1, "maxLength": cron.EXPRESSION_CHARACTERS_MAX}},
        "every": {"string": DELAY, "number": INTERVAL},
        "start_at": {"string": MOMENT},
        "end_at": {"string": MOMENT},
    },
    NewSchedule: {
        "expires_after_s": {
            "number": {"minimum": schedules.EXPIRES_AFTER_S_MIN, "maximum": schedules.EXPIRES_AFTER_S_MAX}
        }
    },
    NewPreview: {"count": {"integer": {"minimum": 1, "maximum": schedules.PREVIEW_MAX}}},
    NewKey: {
        "name": {"string": {"minLength": 1, "maxLength": keyring.NAME_CHARS_MAX}},
        "scopes": {"array": {"minItems": 1, "uniqueItems": True}},
        "expires_at": {"string": MOMENT},
        "per_s": {"number": {"minimum": keyring.PER_S_MIN, "maximum": keyring.PER_S_MAX}},
        "burst": {"integer": {"minimum": 1, "maximum": keyring.BURST_MAX}},
        "project": {"string": PROJECT},
    },
    KeyQuery: {"project": {"string": PROJECT}},
    KeysQuery: {"project": {"string": PROJECT}},
    Rotate: {"overlap_s": {"number": OVERLAP}},
    RotateSecret: {"overlap_s": {"number": OVERLAP}},
    target_rules.Limit: {
        "per_s": {"number": {"minimum": target_rules.PER_S_MIN, "maximum": target_rules.PER_S_MAX}},
        "burst": {"integer": {"minimum": 1, "maximum": target_rules.BURST_MAX}},
    },
    ProblemDocument: {"type": {"string": {"format": "uri-reference"}}, "status": {"integer": {"minimum": 400}}},
}


def _at_most_one(*names: str) -> Iterator[Schema]:
    """No two of them together, where null counts as absent."""
    for pair in itertools.combinations(names, 2):
        yield {"not": {"required": list(pair), "properties": {name: {"not": {"type": "null"}} for name in pair}}}


def _at_least_one(*names: str) -> Schema:
    return {"anyOf": [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]}


def _only_beside(name: str, other: str) -> Schema:
    given = {"required": [other], "properties": {other: {"not": {"type": "null"}}}}
    return {"anyOf": [{"properties": {name: {"type": "null"}}}, given]}


_TIMES = ("due_at", "delay", "local_time")
_BODIES = ("body", "body_text", "body_base64")
RULES: Mapping[type, tuple[Schema, ...]] = {
    TaskTemplate: tuple(_at_most_one(*_BODIES)),
    NewTask: tuple(_at_most_one(*_TIMES)),
    NewTime: (*_at_most_one(*_TIMES), _at_least_one(*_TIMES)),
    NewKey: (_only_beside("burst", "per_s"),),
    PurgeCommand: (*_at_most_one("ids", "filter"), _at_least_one("ids", "filter")),
    Times: (*_at_most_one("cron", "every"), _at_least_one("cron", "every")),
}
