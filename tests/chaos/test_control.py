"""The checker of `make chaos` sees: with a rule switched off in real processes, it says which promise was broken.

The quickest of the five; the others by hand, `python -m tests.chaos --broken RULE`.
"""

import pytest

from tests.chaos.controls import broken
from tests.chaos.run import Run
from tests.chaos.testing import report_of

SHORT = Run(seed=1, minutes=0.25, per_minute=4.0)


@pytest.mark.timeout(240)
def test_a_wheel_that_is_believed_without_the_row_is_reported_as_early() -> None:
    report = report_of(broken(SHORT, "the row decides what is due"), "control")

    assert "early" in report.kinds, report.text()
