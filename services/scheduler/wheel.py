"""A hierarchical timing wheel: which keys are due by tick N, and when is it worth looking again?

Integers in, integers out: it must not know what a tick lasts, what a key stands for, or what time it is.
Source: Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (1987); the digit rule is tokio-util's.

A due tick is read in base 64, as a clock reads hours, minutes and seconds. Each level is one digit, a ring of
64 slots with a hand (^) on that digit of `now`. A key sits on the level of the highest digit in which its due
tick differs from `now`, in the slot of that digit. With now = (.., 0, 2, 5):

    level 2, a slot is 4096 ticks       [0][1][2][3][4][5][6] ... [63]
                                         ^           c                    c is due at (4, 7, 7)
    level 1, a slot is   64 ticks       [0][1][2][3][4][5][6] ... [63]
                                               ^        b                 b is due at (0, 5, 9)
    level 0, a slot is    1 tick        [0][1][2][3][4][5][6] ... [63]
                                                        ^  a              a is due at (0, 2, 6)

When the hand of level 0 reaches a slot, its keys are due. On a higher level they cascade: each moves down to
the digit in which it differs now, so a key moves at most 5 times. The code leans on three facts that follow:

- All keys on a level are due before any on the level above, and the slot under a hand is empty.
- Where a key sits depends on (now, due) alone, and a hand passing other slots does not change it. So cancel
  computes the place instead of storing it, and keys due at one tick share a slot, in the order scheduled.
- Only the top ring wraps, since no level reads the digits above it. A key a full turn ahead would land under
  the hand, where "due now" and "a turn from now" look the same; so the reach is one slot short of a turn.
"""

from collections.abc import ItemsView, Iterator
from typing import Final, Generic, TypeVar

K = TypeVar("K")

_LEVELS: Final = 6
_BITS: Final = 6  # one base-64 digit
_SLOTS: Final = 1 << _BITS
_DIGIT: Final = _SLOTS - 1
_RING: Final = (1 << _SLOTS) - 1  # a bitmap with every slot occupied

REACH: Final = (_SLOTS - 1) << (_LEVELS - 1) * _BITS
"""How many ticks ahead a key may be due: 63/64 of a turn of the top ring, 782 days at 1 ms a tick."""


class TimingWheel(Generic[K]):
    """Holds keys until their tick. schedule and cancel are O(1); an empty stretch costs nothing to cross.

    Not thread-safe. Ticks are not negative. A key is held once: the memory is two dict entries.
    """

    __slots__ = ("_dues", "_now", "_occupied", "_rings")

    def __init__(self, now: int) -> None:
        if now < 0:
            raise ValueError(f"the wheel starts at tick {now}: ticks are not negative")
        self._now = now
        self._dues: dict[K, int] = {}
        self._rings: list[list[dict[K, int]]] = [[{} for _ in range(_SLOTS)] for _ in range(_LEVELS)]
        self._occupied = [0] * _LEVELS  # bit s of level l is set when slot s holds a key

    def __len__(self) -> int:
        return len(self._dues)

    def __contains__(self, key: object) -> bool:
        return key in self._dues

    def held(self) -> ItemsView[K, int]:
        """Each key with its tick."""
        return self._dues.items()

    def schedule(self, key: K, due: int) -> bool:
        """Hold `key` until tick `due` (replacing an earlier one). False if already due: emit it yourself.

        After False the key is not held, not even for its earlier tick. A `due` beyond REACH raises ValueError
        and changes nothing: the caller loads a horizon of seconds, so it is a mistake of units, which holding
        the key at the far end would hide.
        """
        if due - self._now > REACH:
            raise ValueError(f"{key!r} at tick {due} is over {REACH} ahead of {self._now}: load it later")
        if key in self._dues:
            self.cancel(key)
        if due <= self._now:
            return False
        level, slot = _seat(self._now, due)
        self._dues[key] = self._rings[level][slot][key] = due
        self._occupied[level] |= 1 << slot
        return True

    def cancel(self, key: K) -> bool:
        """Forget `key`. False if it is not held (never scheduled, cancelled, or already due)."""
        due = self._dues.pop(key, None)
        if due is None:
            return False
        level, slot = _seat(self._now, due)
        keys = self._rings[level][slot]
        del keys[key]
        if not keys:
            self._occupied[level] &= ~(1 << slot)
        return True

    def next_wake(self) -> int | None:
        """A tick after now, no later than the earliest due; None when empty. May be for a cascade only."""
        for level, occupied in enumerate(self._occupied):
            if occupied:
                shift = level * _BITS
                hand = self._now >> shift
                return (hand + next(_steps(_turned(occupied, hand)))) << shift
        return None

    def advance(self, now: int) -> list[K]:
        """Move to tick `now` and return every key due by then, earliest first, ties in the order scheduled.

        `now` never goes back: ValueError if it does. The cost is of keys returned and moved, not of ticks.
        """
        if now < self._now:
            raise ValueError(f"the wheel stands at tick {self._now} and cannot go back to {now}")
        then, self._now = self._now, now
        fired: list[K] = []
        for level in range(_LEVELS):
            if then >> level * _BITS == now >> level * _BITS:
                break  # this hand did not move, so none above it did
            self._turn(level, then, fired)
        # One pass forgets and orders: sort asks once for each key's tick, and being stable keeps the ties.
        fired.sort(key=self._dues.pop)
        return fired

    def _turn(self, level: int, then: int, fired: list[K]) -> None:
        """Empty the slots this level's hand met since `then`. It stands on the last, which may cascade."""
        shift = level * _BITS
        hand = then >> shift
        crossed = min((self._now >> shift) - hand, _DIGIT)
        for step in _steps(_turned(self._occupied[level], hand) & ((2 << crossed) - 1)):
            keys = self._take(level, hand + step & _DIGIT)
            last_tick = (hand + step + 1 << shift) - 1
            if last_tick <= self._now:  # always so on level 0, where a slot is one tick
                fired.extend(keys)
            else:
                self._spread(keys, level - 1)
                self._turn(level - 1, hand + step << shift, fired)

    def _take(self, level: int, slot: int) -> dict[K, int]:
        keys = self._rings[level][slot]
        self._rings[level][slot] = {}
        self._occupied[level] &= ~(1 << slot)
        return keys

    def _spread(self, keys: dict[K, int], level: int) -> None:
        """Lay one slot's keys out over the ring below, which is empty by then. The hot loop of a cascade."""
        ring, shift = self._rings[level], level * _BITS
        for key, due in keys.items():
            ring[due >> shift & _DIGIT][key] = due
        self._occupied[level] = sum(1 << slot for slot, held in enumerate(ring) if held)


def _seat(now: int, due: int) -> tuple[int, int]:
    """The level and slot of a key due after `now`: the rule that the drawing above shows."""
    level = min(((due ^ now).bit_length() - 1) // _BITS, _LEVELS - 1)
    return level, due >> level * _BITS & _DIGIT


def _turned(occupied: int, hand: int) -> int:
    """The bitmap as seen from the hand: bit n is the slot n steps ahead."""
    digit = hand & _DIGIT
    return (occupied >> digit | occupied << (_SLOTS - digit)) & _RING


def _steps(ahead: int) -> Iterator[int]:
    """The positions of the bits that are set, nearest first."""
    while ahead:
        lowest = ahead & -ahead
        yield lowest.bit_length() - 1
        ahead ^= lowest
