import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.typing import FilteringBoundLogger

from libs.common.logs import configure_logs, redacted


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    handlers, level = logging.root.handlers, logging.root.level
    yield
    logging.captureWarnings(False)
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def configured() -> FilteringBoundLogger:
    # Inside the test and not in a fixture: pytest gives the call a stdout of its own.
    configure_logs("dispatcher", "dispatcher-1", "info")
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_is_one_json_object_that_says_who_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    log = configured()
    log.info("attempt.finished", outcome="timeout", lateness_ms=3)

    [line] = lines(capsys)
    assert line.pop("timestamp")
    assert line == {
        "event": "attempt.finished",
        "outcome": "timeout",
        "lateness_ms": 3,
        "level": "info",
        "service": "dispatcher",
        "replica": "dispatcher-1",
    }


def test_a_timestamp_is_utc_with_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    log = configured()
    log.info("attempt.finished")

    [line] = lines(capsys)
    assert len(line["timestamp"]) == len("2027-03-01T09:00:00.000Z")
    assert line["timestamp"].endswith("Z")


def test_correlation_ids_of_the_context_are_on_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = configured()
    with structlog.contextvars.bound_contextvars(task_id="t1", attempt=2):
        log.info("attempt.finished")
        logging.getLogger("aiormq").warning("odd")

    assert all((line["task_id"], line["attempt"]) == ("t1", 2) for line in lines(capsys))


def test_a_line_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    log = configured()
    log.debug("attempt.started")

    assert lines(capsys) == []


@pytest.mark.parametrize("name", ["aio_pika", "aiormq.channel", "aiohttp.server", "asyncio"])
def test_a_library_speaks_through_the_same_renderer_from_warning_up(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    configured()
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("lost %s", "amqp://user:hunter2@broker/")

    [line] = lines(capsys)
    assert (line["logger"], line["level"], line["service"]) == (name, "warning", "dispatcher")
    assert line["event"] == "lost amqp://<hidden>@broker/"


def test_a_warning_of_python_is_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("careful", stacklevel=1)

    assert "careful" in lines(capsys)[0]["event"]


@pytest.mark.parametrize("source", ["ours", "library"])
def test_an_exception_is_structured_without_local_variables(capsys: pytest.CaptureFixture[str], source: str) -> None:
    log = configured()
    try:
        secret_local = "hunter3"
        raise ValueError(f"cannot reach amqp://u:hunter2@broker/ ({len(secret_local)})")
    except ValueError:
        if source == "ours":
            log.exception("handler.crashed")
        else:
            logging.getLogger("aiohttp.server").exception("handler crashed")

    text = capsys.readouterr().out
    [exception] = json.loads(text)["exception"]
    assert exception["exc_type"] == "ValueError"
    assert exception["frames"][0]["name"].startswith("test_an_exception")
    assert "locals" not in exception["frames"][0]
    assert "hunter2" not in text
    assert "hunter3" not in text


@pytest.mark.parametrize(
    "key",
    ["Authorization", "client_secret", "X-Token", "Set-Cookie", "webhook-signature", "password", "api_key"],
)
def test_a_value_under_a_secret_key_is_hidden_at_any_depth(key: str) -> None:
    assert redacted({"headers": [{key: "hunter2", "Host": "x"}]}) == {"headers": [{key: "<hidden>", "Host": "x"}]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://user:pass@broker:5672/vhost", "amqp://<hidden>@broker:5672/vhost"),
        ("at redis://:p@ss@cache/0, retrying", "at redis://<hidden>@cache/0, retrying"),
        ("https://example.org/a@b", "https://example.org/a@b"),
        ("https://example.org/?to=me@example.org", "https://example.org/?to=me@example.org"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_the_login_in_a_url_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_value_that_json_cannot_hold_does_not_break_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = configured()
    log.info("task.created", path="\udc80", number=2**80, thing=object(), raw=b"\xff")

    [line] = lines(capsys)
    assert line["event"] == "task.created"


def test_a_terminal_gets_a_readable_page_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    configure_logs("dispatcher", "dispatcher-1", "info")

    try:
        raise ValueError("amqp://u:hunter2@broker/")
    except ValueError:
        structlog.get_logger().exception("handler.crashed", token="hunter3")

    assert "handler.crashed" in terminal.getvalue()
    assert "ValueError" in terminal.getvalue()
    assert "hunter" not in terminal.getvalue()
