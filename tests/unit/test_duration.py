from decimal import Decimal

import pytest

from libs.common import duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (5, "5"),
        (0.1, "0.1"),
        (-1, "-1"),
        ("90s", "90"),
        ("1.5m", "90"),
        ("2h", "7200"),
        ("1d", "86400"),
        ("PT15M", "900"),
        ("P1W2DT3H4M5.006S", "788645.006"),
        ("PT0,5H", "1800"),
    ],
)
def test_a_duration_is_read_exactly(written: str | float, seconds: str) -> None:
    assert duration.seconds(written) == Decimal(seconds)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "5",
        "m",
        "5 m",
        "-5m",
        "1h30m",
        "P",
        "PT",
        "P1M",
        "P1Y",
        "PT1H1H",
        "5M",
        "\N{ARABIC-INDIC DIGIT FIVE}m",
        "1" * 64 + "s",
    ],
)
def test_what_is_no_duration_is_none(written: str) -> None:
    assert duration.seconds(written) is None
