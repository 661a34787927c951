"""How much of everything a task may ask for. Pure; every fault is reported, with the limit in its text."""

import re
from collections.abc import Iterator, Mapping

from services.ingest.problems import FieldError, escaped
from services.ingest.requests import Expect, Retry

TIMEOUT_S_MIN, TIMEOUT_S_MAX = 0.1, 60.0
RETRIES_MAX = 50
RETRY_DELAY_S_MAX = 7 * 86_400
STATUSES_MAX = 20
BODY_CONTAINS_CHARS_MAX = 1024
LABELS_MAX = 16
LABEL_NAME_CHARS_MAX, LABEL_VALUE_CHARS_MAX = 64, 256

STATUS = re.compile(r"[1-5](xx|[0-9][0-9])")
LABEL_NAME = re.compile(r"[A-Za-z0-9_./-]+")
NO_CONTROL = re.compile(r"[^\x00-\x1f\x7f]*")  # PostgreSQL's jsonb refuses NUL, and the others help nobody


def timeout_errors(timeout_s: float) -> Iterator[FieldError]:
    if not TIMEOUT_S_MIN <= timeout_s <= TIMEOUT_S_MAX:
        detail = f"is out of range; give {TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:g} seconds"
        yield FieldError("/timeout_s", "out_of_range", detail)


def retry_errors(retry: Retry) -> Iterator[FieldError]:
    schedule_s = retry.schedule_s or ()
    if len(schedule_s) > RETRIES_MAX:
        yield FieldError("/retry/schedule_s", "too_many", f"has {len(schedule_s)} steps; give at most {RETRIES_MAX}")
    for index, delay_s in enumerate(schedule_s):
        if not 0 <= delay_s <= RETRY_DELAY_S_MAX:
            detail = f"is out of range; give 0 to {RETRY_DELAY_S_MAX} seconds (a week)"
            yield FieldError(f"/retry/schedule_s/{index}", "out_of_range", detail)


def expect_errors(expect: Expect) -> Iterator[FieldError]:
    if not 1 <= len(expect.status) <= STATUSES_MAX:
        detail = f"has {len(expect.status)} entries; give 1 to {STATUSES_MAX}, or leave it out for 2xx"
        yield FieldError("/expect/status", "out_of_range", detail)
    for index, status in enumerate(expect.status):
        if not STATUS.fullmatch(status):
            detail = "is no status; write a class as 2xx or a code as 204"
            yield FieldError(f"/expect/status/{index}", "bad_status", detail)
    if expect.body_contains is not None and not 1 <= len(expect.body_contains) <= BODY_CONTAINS_CHARS_MAX:
        detail = f"has {len(expect.body_contains)} characters; give 1 to {BODY_CONTAINS_CHARS_MAX}, or leave it out"
        yield FieldError("/expect/body_contains", "out_of_range", detail)


def label_errors(labels: Mapping[str, str]) -> Iterator[FieldError]:
    if len(labels) > LABELS_MAX:
        yield FieldError("/labels", "too_many", f"are {len(labels)}; give at most {LABELS_MAX}")
    for name, value in labels.items():
        pointer = f"/labels/{escaped(name)}"
        if len(name) > LABEL_NAME_CHARS_MAX or not LABEL_NAME.fullmatch(name):
            detail = f"is no label name; use at most {LABEL_NAME_CHARS_MAX} letters, digits and _ . / -"
            yield FieldError(pointer, "bad_name", detail)
        if len(value) > LABEL_VALUE_CHARS_MAX:
            yield FieldError(pointer, "too_long", f"has {len(value)} characters; use at most {LABEL_VALUE_CHARS_MAX}")
        if not NO_CONTROL.fullmatch(value):
            yield FieldError(pointer, "bad_value", "contains a control character; remove it")
