"""The mixed load: the same dice ask for the same, everything is in it, and each story can be played as it stands."""

import random
from collections.abc import Iterator

import pytest

from tests.chaos.mix import BATCH_ITEMS, BEHAVIOURS, DEEDS, DOORS, Mix, Story, mix

OVER_S = 180.0
WANTED = mix(3_600, 20, OVER_S, random.Random(1))


def stories(wanted: Mix = WANTED) -> Iterator[Story]:
    yield from wanted.stories
    for batch in wanted.batches:
        yield from batch.stories


def test_the_same_seed_asks_for_the_same_and_another_for_something_else() -> None:
    assert mix(300, 5, OVER_S, random.Random(7)) == mix(300, 5, OVER_S, random.Random(7))
    assert mix(300, 5, OVER_S, random.Random(7)) != mix(300, 5, OVER_S, random.Random(8))


def test_every_task_is_asked_for_once() -> None:
    assert WANTED.tasks == 3_600
    assert sorted(story.number for story in stories()) == list(range(3_600))


def test_everything_is_in_it() -> None:
    assert {story.door for story in stories()} == set(DOORS)
    assert {story.behaviour for story in stories()} == set(BEHAVIOURS)
    assert {deed.name for story in stories() for deed in story.deeds} == set(DEEDS) - {None} | {"redrive"}
    assert {step.act for plot in WANTED.plots for step in plot.steps} == {"put", "pause", "resume", "run"}
    assert {batch.is_ndjson for batch in WANTED.batches} == {True, False}
    assert any(story.is_due_now for story in stories())
    assert any(story.due_at_s - story.post_at_s > 60 for story in stories())
    assert any(story.copies > 1 for story in stories())


def test_a_move_goes_to_earlier_and_to_later() -> None:
    moves = [(deed.due_at_s, story.due_at_s) for story in stories() for deed in story.deeds if deed.name == "move"]
    assert sum(new < old for new, old in moves) > 20
    assert sum(new > old for new, old in moves) > 20


def test_some_cancels_come_while_a_task_is_retried_and_some_before_it_is_due() -> None:
    cancels = [(deed.at_s, story.due_at_s) for story in stories() for deed in story.deeds if deed.name == "cancel"]
    assert sum(at_s > due_at_s + 0.5 for at_s, due_at_s in cancels) > 20
    assert sum(at_s < due_at_s - 0.5 for at_s, due_at_s in cancels) > 20
    assert sum(abs(at_s - due_at_s) < 0.3 for at_s, due_at_s in cancels) > 20


@pytest.mark.parametrize("story", list(stories())[:400], ids=lambda story: str(story.number))
def test_nothing_is_done_to_a_task_before_it_is_asked_for_or_in_the_wrong_order(story: Story) -> None:
    times = [story.post_at_s, *(deed.at_s for deed in story.deeds)]
    assert times == sorted(times)
    assert 0 <= story.post_at_s <= story.due_at_s <= OVER_S


def test_where_an_answer_names_no_id_nothing_is_done_to_the_task() -> None:
    nameless = [story for story in stories() if story.door in ("form", "list")]
    assert nameless
    assert all(not story.deeds and not story.has_callbacks and story.schedule_s is None for story in nameless)
    assert not {story.behaviour for story in nameless} & {"stall", "mended"}


def test_a_batch_is_sent_when_the_first_of_its_tasks_would_be() -> None:
    assert all(len(batch.stories) <= BATCH_ITEMS for batch in WANTED.batches)
    assert all(batch.post_at_s == min(story.post_at_s for story in batch.stories) for batch in WANTED.batches)


def test_a_schedule_is_made_before_it_is_changed() -> None:
    for plot in WANTED.plots:
        assert plot.steps[0].act == "put"
        times = [step.at_s for step in plot.steps]
        assert times == sorted(times)
