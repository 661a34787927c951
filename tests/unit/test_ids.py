from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import callback_id, derived_id, new_id

any_text = st.text(st.characters())  # lone surrogates too


def test_a_new_id_is_a_uuid7_and_sorts_after_the_one_before() -> None:
    ids = [new_id() for _ in range(1000)]

    assert all(type(one) is UUID and one.version == 7 for one in ids)
    assert ids == sorted(ids)


@given(any_text, any_text)
def test_a_derived_id_is_a_uuid8_whatever_its_parts(project: str, key: str) -> None:
    one = derived_id(project, key)

    assert one.version == 8
    assert one.variant == RFC_4122


def test_a_derived_id_stays_the_same_from_release_to_release() -> None:
    assert derived_id("shop", "order-1") == UUID("e87bc9b2-b831-852c-9373-449841a0155f")
    assert derived_id("shop", "order-1", "0") == UUID("8e63edc6-a336-872d-be30-868cb9d48e8d")


@given(st.lists(any_text, min_size=2, max_size=4), st.lists(any_text, min_size=2, max_size=4))
def test_different_parts_give_different_ids(one: list[str], other: list[str]) -> None:
    assert (derived_id(*one) == derived_id(*other)) == (one == other)


def test_the_border_between_parts_counts() -> None:
    assert derived_id("a", "bc") != derived_id("ab", "c")
    assert derived_id("a", "b") != derived_id("a", "b", "")


def test_a_key_with_a_lone_surrogate_has_an_id_of_its_own() -> None:
    assert derived_id("a", "\udc80") != derived_id("a", "\udc81")


def test_the_task_of_a_callback_has_the_same_id_in_every_service_and_release() -> None:
    made = callback_id("default", UUID(int=7), 2, "failed")
    assert made == derived_id("default", "callback", str(UUID(int=7)), "2", "failed")
    assert str(made) == "9a3be992-d7a7-8dab-b507-befde55e1525"
