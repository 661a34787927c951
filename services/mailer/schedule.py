"""When the digest is due: a cron expression in a time zone. No clock in here: the caller says what time it is."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_ANY_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


class Schedule:
    """`expression` has 5 fields, or 6 with the seconds first; `zone` is an IANA name.

    Raises: ValueError for an expression that cannot be read or never comes, or an unknown zone.
    """

    def __init__(self, expression: str, zone: str) -> None:
        self._expression = expression
        self._zone = _zone(zone)
        try:
            self.after(_ANY_MOMENT)
        except CronSimError as error:
            raise ValueError(f"is no cron expression of 5 or 6 fields ({error})") from None

    def after(self, moment: datetime) -> datetime:
        """The first fire after `moment`, aware UTC. Fires missed in between are one: ask again from now."""
        for fire in CronSim(self._expression, moment.astimezone(self._zone)):
            # In the second pass of the hour that a clock change repeats, cronsim answers from the first one.
            if (fire_utc := fire.astimezone(UTC)) > moment:
                return fire_utc
        raise ValueError("never comes within 50 years")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, a path, a folder of zones
        raise ValueError("is no IANA time zone such as Europe/Paris") from None
