"""What a task's owner is told when it has ended."""

import msgspec

from libs.common.contracts import AttemptFinished, decode_call
from services.dispatcher.callback import callback_of
from services.dispatcher.retry import Done, Fail, Ladder
from tests.unit.dispatcher.samples import NOW, a_call, a_task, an_answer

TASK = a_task(a_call(url="https://example.com/hook", method="PUT", callback_success="https://example.com/done"))
URL = "https://example.com/done"


def ended(status: int = 200) -> AttemptFinished:
    verdict = Ladder((), lambda: 0.0).decide(TASK, decode_call(TASK.call), an_answer(status), NOW, NOW, "one")
    assert isinstance(verdict, Done | Fail)
    return verdict.event


def test_it_tells_how_the_task_ended() -> None:
    callback = callback_of(TASK, URL, ended(503))
    call = decode_call(callback.call)
    assert (call.url, call.method, call.headers) == (URL, "POST", (("Content-Type", "application/json"),))
    assert msgspec.json.decode(call.body) == {
        "id": str(TASK.id),
        "project": "shop",
        "status": "failed",
        "url": "https://example.com/hook",
        "method": "PUT",
        "labels": {},
        "created_at": "2027-03-01T08:00:00.000Z",
        "due_at": "2027-03-01T09:00:00.000Z",
        "finished_at": "2027-03-01T09:00:00.043Z",
        "attempt_count": 1,
        "last_attempt": {
            "number": 1,
            "started_at": "2027-03-01T09:00:00.003Z",
            "duration_ms": 40,
            "status_code": 503,
            "error": "server_error",
            "error_detail": "HTTP 503",
        },
    }


def test_it_is_a_task_of_its_own_without_callbacks() -> None:
    callback = callback_of(TASK, URL, ended())
    call = decode_call(callback.call)
    assert (call.callback_success, call.callback_failure, call.schedule_s) == (None, None, None)
    assert (callback.project, callback.attempt, callback.generation) == ("shop", 1, 1)
    assert callback.id != TASK.id
    assert callback.labels == {"callback_of": str(TASK.id)}


def test_the_same_end_makes_the_same_task_and_another_end_another() -> None:
    assert callback_of(TASK, URL, ended()) == callback_of(TASK, URL, ended())
    redriven = msgspec.structs.replace(TASK, generation=2)
    ids = {callback_of(TASK, URL, ended()).id, callback_of(TASK, URL, ended(503)).id}
    assert len(ids | {callback_of(redriven, URL, ended()).id}) == 3
