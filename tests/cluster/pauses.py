"""How long nothing happened around an outage. Pure: moments in, milliseconds out."""

from collections.abc import Iterable
from itertools import pairwise

SETTLES_MS = 30_000
"""After an outage: what it held up comes within this, or counts as the next one's."""


def longest_pause_ms(moments_ms: Iterable[int], from_ms: int, until_ms: int) -> int:
    """The longest time within the window without one of `moments_ms`; its edges count as moments."""
    inside = sorted(moment for moment in moments_ms if from_ms <= moment <= until_ms)
    edges = [from_ms, *inside, until_ms]
    return max(later - earlier for earlier, later in pairwise(edges))
