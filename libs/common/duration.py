"""How clients write a length of time: seconds, `90s` `5m` `2h` `1d`, or ISO 8601. Decimal: floats lose milliseconds."""

import re
from decimal import Decimal

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SHORT = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_NUMBER = r"([0-9]+(?:[.,][0-9]+)?)"
# ISO 8601 without years and months, whose length depends on the day they begin.
ISO = re.compile(rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?")
_ISO_UNIT_S = (604_800, 86_400, 3600, 60, 1)
_LENGTH_MAX = 64


def seconds(value: str | float) -> Decimal | None:
    """The exact seconds that `value` says; None when it is no duration. A day is 24 hours, whatever clocks do."""
    if not isinstance(value, str):
        return Decimal(str(value))
    if len(value) > _LENGTH_MAX:
        return None
    if short := SHORT.fullmatch(value):
        return Decimal(short[1]) * _UNIT_S[short[2]]
    iso = ISO.fullmatch(value)
    if iso is None or not any(iso.groups()):
        return None
    parts = zip(iso.groups(), _ISO_UNIT_S, strict=True)
    return sum((Decimal(part.replace(",", ".")) * unit for part, unit in parts if part), Decimal(0))
