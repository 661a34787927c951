"""What of tracing needs no service: when it is on, what a span says, and that a collector can do no harm."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from libs.common import tracing as module
from libs.common.tracing import Tracer, is_wanted, tracing
from tests.collector import Collector, Recorder, collector
from tests.conftest import ROOT

CLIENTS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
EXPORTER = "OTEL_TRACES_EXPORTER"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
AT = "http://127.0.0.1:4318"


@contextmanager
def _threads_end() -> Iterator[None]:
    """An exporter that was cut off goes on in its thread, and would complain into the log of a later test."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive(), thread.name


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """OpenTelemetry's logger as it was before the test."""
    logger = logging.getLogger("opentelemetry")
    handlers, propagate = logger.handlers, logger.propagate
    with _threads_end():
        yield
    logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as made, _threads_end():
        monkeypatch.setenv(ENDPOINT, made.url)
        yield made
        made.answers.set()


# --- on and off


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "shop", "OTEL_TRACES_SAMPLER": "always_on"}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: AT}, True),
        ({TRACES_ENDPOINT: AT + "/v1/traces"}, True),
        ({EXPORTER: "otlp"}, True),
        ({EXPORTER: " OTLP ", ENDPOINT: AT}, True),
        ({EXPORTER: "none", ENDPOINT: AT}, False),
        ({ENDPOINT: AT, "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: AT, "OTEL_SDK_DISABLED": "false"}, True),
        ({ENDPOINT: AT, PROTOCOL: "http/protobuf"}, True),
    ],
)
def test_only_the_standard_variables_switch_it_on(environ: dict[str, str], wanted: bool) -> None:
    with capture_logs() as said:
        assert is_wanted(environ) is wanted
    assert said == []


@pytest.mark.parametrize(
    "environ",
    [
        {EXPORTER: "console"},
        {EXPORTER: "zipkin", ENDPOINT: AT},
        {ENDPOINT: AT, PROTOCOL: "grpc"},
        {EXPORTER: "otlp", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", PROTOCOL: "http/protobuf"},
    ],
)
def test_what_it_cannot_do_is_said_and_leaves_it_off(environ: dict[str, str]) -> None:
    with capture_logs() as said:
        assert not is_wanted(environ)
    assert [line["event"] for line in said] == ["tracing.off"]


def python(code: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_off_not_one_module_of_it_is_imported() -> None:
    """But for what redis-py takes by itself where it is installed."""
    said = python(
        "import sys, redis.asyncio\n"
        "before = set(sys.modules)\n"
        "import services.ingest.__main__, services.dispatcher.__main__\n"
        "from libs.common.tracing import tracing\n"
        "with tracing('ingest', 'one') as tracer: assert tracer is None\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(new & {'opentelemetry', 'google', 'requests', 'urllib3'}, 'structlog' in new)"
    )
    assert said == "set() True\n"


def test_on_but_not_installed_a_service_works_without_and_says_so() -> None:
    said = python(
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from libs.common.tracing import tracing\n"
        "with tracing('ingest', 'one') as tracer: assert tracer is None",
        **{ENDPOINT: AT},
    )
    assert "tracing.off" in said
    assert "not installed: see docs/tracing.md" in said


def test_numbers_that_do_not_fit_together_leave_it_off_and_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, AT)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "10")  # less than a batch
    with capture_logs() as said, tracing("ingest", "one") as tracer:
        assert tracer is None
    assert [line["event"] for line in said] == ["tracing.off"]
    assert "max_queue_size" in said[0]["reason"]


# --- what a span says


def test_an_answer_continues_its_clients_trace_and_a_call_begins_one_with_a_link(made: Collector) -> None:
    with tracing("ingest", "one") as tracer:
        assert tracer is not None
        with tracer.answering("POST /v1/tasks", {"http.route": "/v1/tasks"}, CLIENTS) as accepting:
            accepted = accepting.traceparent
        with tracer.calling("POST", {"carillon.attempt": 2, "carillon.lateness_s": 0.5}, accepted) as span:
            called = span.traceparent
    [answer], [call] = made.of("SERVER"), made.of("CLIENT")
    assert (answer.service, answer.replica, answer.name) == ("carillon-ingest", "one", "POST /v1/tasks")
    assert (answer.trace_id, answer.parent_id) == (CLIENTS[3:35], CLIENTS[36:52])
    assert answer.is_named_by(accepted)
    assert call.is_named_by(called)
    assert answer.attributes == {"http.route": "/v1/tasks"}
    assert (call.trace_id != answer.trace_id, call.parent_id) == (True, "")
    assert call.links == [(answer.trace_id, answer.span_id)]
    assert call.attributes == {"carillon.attempt": 2, "carillon.lateness_s": 0.5}
    assert not answer.is_error
    assert not call.is_error


@pytest.mark.parametrize("origin", [None, "", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
def test_a_call_without_a_known_origin_begins_a_trace_without_a_link(origin: str | None) -> None:
    recorder = Recorder()
    with recorder.tracer.calling("POST", {}, origin):
        pass
    assert (recorder.only.parent, list(recorder.only.links)) == (None, [])


@pytest.mark.parametrize(("sampler", "flags"), [("always_off", "01"), ("always_on", "00")])
def test_a_call_is_recorded_exactly_when_the_request_that_asked_for_it_was(
    made: Collector, monkeypatch: pytest.MonkeyPatch, sampler: str, flags: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    with tracing("dispatcher", "one") as tracer:
        assert tracer is not None
        with tracer.calling("POST", {}, CLIENTS[:-2] + flags) as linked:
            assert int(linked.traceparent[-2:], 16) & 1 == int(flags)  # the second bit is ours: random ids
        with tracer.answering("GET", {}, None), tracer.calling("GET", {}, None):
            pass
    recorded = [span.name for span in made.sent]
    assert recorded == (["POST"] if sampler == "always_off" else ["GET", "GET"])


def test_an_exception_ends_its_span_as_failed() -> None:
    recorder = Recorder()
    with pytest.raises(KeyError), recorder.tracer.calling("POST", {}, None):
        raise KeyError("x")
    assert (recorder.only.status.is_ok, dict(recorder.only.attributes or {})) == (False, {"error.type": "KeyError"})


# --- a collector does no harm


def spans(tracer: Tracer | None, count: int) -> None:
    assert tracer is not None
    for _ in range(count):
        with tracer.calling("POST", {}, CLIENTS):
            pass


def test_a_collector_that_is_away_costs_one_line_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as gone:
        monkeypatch.setenv(ENDPOINT, gone.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2048")  # all that the queue holds: its thread ends sooner
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    monkeypatch.setattr(module, "FLUSH_MAX_S", 2.0)
    with capture_logs() as said, tracing("dispatcher", "one") as tracer:
        spans(tracer, 600)
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        spans(tracer, 5000)
    assert [line["event"] for line in said if line["event"] != "tracing.cut-off"] == ["tracing.failing"]
    assert "refused" in said[0]["reason"]


def test_a_collector_that_does_not_answer_holds_neither_work_nor_the_end(
    made: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.answers.clear()
    monkeypatch.setattr(module, "FLUSH_MAX_S", 0.5)
    with capture_logs() as said:
        with tracing("dispatcher", "one") as tracer:
            begun = time.monotonic()
            spans(tracer, 5000)  # more than the queue holds
            worked_s = time.monotonic() - begun
        ended_s = time.monotonic() - begun - worked_s
    assert worked_s < 5, "a span waited for the collector"
    assert 0.4 < ended_s < 5  # the exporter itself would wait 10 s
    assert "tracing.cut-off" in [line["event"] for line in said]


def test_complaints_come_again_when_their_pause_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = module._Complaints()

    def complain(text: str) -> None:
        handler.handle(logging.makeLogRecord({"msg": "no %s", "args": (text,), "levelno": logging.WARNING}))

    with capture_logs() as said:
        for _ in range(3):
            complain("way")
        monkeypatch.setattr(module, "COMPLAINT_EVERY_S", 0.0)
        handler.__dict__["_silent_until"] = 0.0
        for _ in range(2):
            complain("way out")
    assert [line["reason"] for line in said] == ["no way", "no way out", "no way out"]
