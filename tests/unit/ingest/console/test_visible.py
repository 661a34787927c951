"""Strangers' text cannot hide, nor turn other text around."""

import pytest

from services.ingest.console.visible import one_line, unseen, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b", "a␀b"),
        ("\x1b[31mred", "␛[31mred"),
        ("a\x7f", "a␡"),
        ("a\x85b", "a⟨U+0085⟩b"),
        ("invoice\u202efdp.exe", "invoice⟨U+202E⟩fdp.exe"),
        ("\u2066\u2069\u200f\u061c", "⟨U+2066⟩⟨U+2069⟩⟨U+200F⟩⟨U+061C⟩"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("a\u2028b", "a⟨U+2028⟩b"),
        ("half \ud800", "half ⟨U+D800⟩"),
        ("tag \U000e0041", "tag ⟨U+E0041⟩"),
    ],
)
def test_what_does_not_show_itself_is_named(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["plain", "tab\tand\nlines", "שלום עולם", "naïve café 漢字 🎉", "<script>&amp;"])
def test_what_shows_itself_is_left_alone(text: str) -> None:
    assert visible(text) == text


def test_lines_of_windows_are_lines() -> None:
    assert visible("a\r\nb\rc") == "a\nb␍c"


def test_a_line_stays_one() -> None:
    assert one_line("a\nb\r\nc\td") == "a␊b␍␊c d"


def test_only_controls_count_against_a_text() -> None:
    assert unseen("a\0\x01\r\n\t\u202e\u200b") == 2
