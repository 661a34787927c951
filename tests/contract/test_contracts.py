"""Today's code reads yesterday's messages.

`golden/<Tag>.json` is the body of one AMQP message, only spaced out: what some release once published. Never edit an
item of it; a new optional field gets a new item, and any other change a new type with a file of its own.
"""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from libs.common.contracts import (
    AnyMessage,
    Call,
    CreateTask,
    HeldSchedule,
    Message,
    NoticeTally,
    Schedule,
    SigningRule,
    Tally,
    TargetRule,
    Task,
    TaskDue,
    Timing,
    decode_call,
    decode_task,
    encode,
)

GOLDEN = Path(__file__).parent / "golden"
TYPES: dict[str, type[msgspec.Struct]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AnyMessage)}
read_any = msgspec.json.Decoder[AnyMessage](AnyMessage).decode
split = msgspec.json.Decoder(list[msgspec.Raw]).decode

NESTED: tuple[type[msgspec.Struct], ...] = (
    Call,
    Task,
    Schedule,
    HeldSchedule,
    TargetRule,
    SigningRule,
    Timing,
    Tally,
    NoticeTally,
)

# What an absent field means. A message that was published without it keeps this meaning for ever.
DEFAULTS: dict[type[msgspec.Struct], dict[str, object]] = {
    Call: {
        "method": "POST",
        "headers": (),
        "body": b"",
        "timeout_s": 15.0,
        "schedule_s": None,
        "respect_retry_after": True,
        "expect_status": ("2xx",),
        "expect_body_contains": None,
        "expect_json_success": False,
        "traceparent": None,
        "callback_success": None,
        "callback_failure": None,
    },
    Task: {
        "generation": 1,
        "attempt": 1,
        "hop": 0,
        "expires_at": None,
        "labels": {},
        "schedule": None,
        "put_off_since": None,
    },
    Schedule: {
        "cron": None,
        "every": None,
        "timezone": "UTC",
        "start_at": None,
        "end_at": None,
        "catch_up": "latest",
        "labels": {},
        "expires_after_s": None,
    },
    HeldSchedule: {"next_at": None, "schedule": None},
    TYPES["CreateTask.1"]: {},
    TYPES["ReturnTask.1"]: {},
    TYPES["CancelTask.1"]: {"generation": 1},
    TYPES["RescheduleTask.1"]: {"due_at": None},
    TYPES["TaskAnswer.1"]: {"generation": None, "due_at": None, "overtaken_by": None},
    TYPES["PutSchedule.1"]: {"revision": None},
    TYPES["ChangeSchedule.1"]: {},
    TYPES["ScheduleAnswer.1"]: {"held": None, "task_id": None, "detail": None, "overtaken_by": None},
    TYPES["ListSchedules.1"]: {"after": "", "limit": 100, "with_times": False},
    TYPES["ScheduleList.1"]: {},
    TargetRule: {"is_paused": False, "per_s": None, "burst": 1},
    SigningRule: {"previous_until": None},
    Timing: {"queue_ms": None, "dns_ms": None, "connect_ms": None, "tls_ms": None, "first_byte_ms": None},
    TYPES["SetControl.1"]: {"targets": (), "signing": (), "is_all": False},
    TYPES["ControlAnswer.1"]: {},
    TYPES["CancelAnswer.1"]: {},
    TYPES["TargetChanged.1"]: {"until": None, "reason": None},
    TYPES["TaskDue.1"]: {"late_because": None, "rung_ms": None},
    TYPES["TaskAccepted.1"]: {},
    TYPES["TaskConflict.1"]: {},
    TYPES["AttemptFinished.1"]: {
        "status_code": None,
        "error": None,
        "error_detail": None,
        "next_attempt_at": None,
        "response_headers": (),
        "response_body": b"",
        "replica": "",
        "timing": None,
        "host": "",
    },
    TYPES["ServiceSeen.1"]: {"vitals": {}, "is_last": False},
    TYPES["TaskFinished.1"]: {"reason": None},
    TYPES["TaskParked.1"]: {},
    TYPES["FailedTask.1"]: {"status_code": None, "error": None, "error_detail": None, "labels": {}},
    TYPES["Notice.1"]: {},
    TYPES["DigestPage.1"]: {
        "tries": 0,
        "failed": (),
        "notices": (),
        "tallies": (),
        "failed_more": 0,
        "notice_tallies": (),
        "notices_more": 0,
        "unreadable": 0,
        "recipients": (),
        "is_urgent": False,
    },
    Tally: {"is_new": False},
    NoticeTally: {},
    TYPES["LastDigest.1"]: {"causes": ()},
    TYPES["AskDigest.1"]: {},
    TYPES["DigestAnswer.1"]: {"pages": 0, "last_at": None, "to": (), "to_projects": {}},
}


def golden_items(tag: str) -> list[bytes]:
    file = GOLDEN / f"{tag}.json"
    assert file.exists(), f"{tag} has no {file}: put the body of one message there, with every field in some item"
    return [bytes(raw) for raw in split(file.read_bytes())]


def defaults(kind: type[msgspec.Struct]) -> dict[str, object]:
    fields = msgspec.structs.fields(kind)
    made = {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in fields
    }
    return {name: value for name, value in made.items() if value is not msgspec.NODEFAULT}


def with_unknown_fields(value: Any) -> Any:
    """The same message from a newer release: every object that is a struct has a field more."""
    if isinstance(value, list):
        return [with_unknown_fields(each) for each in value]
    if not isinstance(value, dict):
        return value
    are_maps = ("labels", "vitals", "to_projects")
    changed = {key: child if key in are_maps else with_unknown_fields(child) for key, child in value.items()}
    return changed | {"a-field-of-tomorrow": {"nested": [1, None]}}


@pytest.mark.parametrize("tag", TYPES)
def test_a_golden_message_is_read_and_written_the_same(tag: str) -> None:
    for raw in golden_items(tag):
        message = read_any(raw)
        assert type(message) is TYPES[tag]
        assert json.loads(encode(message)) == json.loads(raw)


@pytest.mark.parametrize("tag", TYPES)
def test_every_field_of_a_type_stands_in_its_golden_file(tag: str) -> None:
    written: set[str] = set().union(*(json.loads(raw) for raw in golden_items(tag)))
    assert written == {field.encode_name for field in msgspec.structs.fields(TYPES[tag])} | {"type"}


def test_every_field_of_a_task_and_its_call_stands_in_a_golden_file() -> None:
    creates = [json.loads(raw) for raw in golden_items("CreateTask.1")]
    for kind, objects in (
        (Task, [create["task"] for create in creates]),
        (Call, [create["task"]["call"] for create in creates]),
    ):
        assert set().union(*objects) == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_every_field_of_a_schedule_stands_in_a_golden_file() -> None:
    puts = [json.loads(raw) for raw in golden_items("PutSchedule.1")]
    answers = [json.loads(raw) for raw in golden_items("ScheduleAnswer.1")]
    for kind, objects in (
        (Schedule, [put["schedule"] for put in puts]),
        (HeldSchedule, [answer["held"] for answer in answers if "held" in answer]),
    ):
        assert set().union(*objects) == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_every_field_of_what_else_is_nested_stands_in_a_golden_file() -> None:
    controls = [json.loads(raw) for raw in golden_items("SetControl.1")]
    attempts = [json.loads(raw) for raw in golden_items("AttemptFinished.1")]
    for kind, objects in (
        (TargetRule, [rule for control in controls for rule in control.get("targets", ())]),
        (SigningRule, [rule for control in controls for rule in control.get("signing", ())]),
        (Timing, [attempt["timing"] for attempt in attempts if "timing" in attempt]),
    ):
        assert set().union(*objects) == {field.encode_name for field in msgspec.structs.fields(kind)}


def test_every_type_of_message_is_one_of_any_message() -> None:
    assert set(Message.__subclasses__()) == set(TYPES.values())


def test_no_golden_file_has_lost_its_type() -> None:
    assert {file.stem for file in GOLDEN.glob("*.json")} <= set(TYPES), "messages of that type may still be under way"


@pytest.mark.parametrize("kind", [*NESTED, *TYPES.values()], ids=lambda kind: kind.__name__)
def test_an_absent_field_means_what_it_always_meant(kind: type[msgspec.Struct]) -> None:
    assert kind in DEFAULTS, f"write down the defaults of {kind.__name__}"
    assert defaults(kind) == DEFAULTS[kind]


@pytest.mark.parametrize("tag", TYPES)
def test_a_field_that_is_not_known_yet_is_ignored(tag: str) -> None:
    for raw in golden_items(tag):
        newer = json.dumps(with_unknown_fields(json.loads(raw))).encode()
        assert plain(read_any(newer)) == plain(read_any(raw))


def plain(message: Any) -> Any:
    """The message with its raw parts read, as the last one who carries it reads them."""
    if isinstance(message, TaskDue):
        message = msgspec.structs.replace(message, task=decode_task(message.task))
    task = getattr(message, "task", None)
    if isinstance(task, Task):
        message = msgspec.structs.replace(message, task=msgspec.structs.replace(task, call=decode_call(task.call)))
    return _with_its_schedule_read(message)


def _with_its_schedule_read(message: Any) -> Any:
    """As `plain`: of a schedule, or of one that is held."""
    for name in ("schedule", "held"):
        part = getattr(message, name, None)
        if isinstance(part, HeldSchedule):
            message = msgspec.structs.replace(message, **{name: _with_its_schedule_read(part)})
        elif isinstance(part, Schedule):
            read = msgspec.structs.replace(part, call=decode_call(part.call))
            message = msgspec.structs.replace(message, **{name: read})
    return message


def test_a_type_that_nobody_knows_is_an_error_and_not_a_guess() -> None:
    raw = golden_items("CreateTask.1")[0].replace(b"CreateTask.1", b"CreateTask.2")
    with pytest.raises(msgspec.ValidationError, match=r"CreateTask\.2"):
        read_any(raw)


def test_a_call_travels_through_the_scheduler_byte_by_byte() -> None:
    raw = golden_items("CreateTask.1")[0]
    create = read_any(raw)
    assert isinstance(create, CreateTask)
    assert bytes(create.task.call) in raw
    assert bytes(decode_task(encode(create.task)).call) == bytes(create.task.call)


def test_times_are_aware_and_of_whole_milliseconds() -> None:
    for raw in golden_items("CreateTask.1"):
        create = read_any(raw)
        assert isinstance(create, CreateTask)
        offset = create.task.due_at.utcoffset()
        assert offset is not None
        assert not offset
        assert create.task.created_at.microsecond % 1000 == 0
