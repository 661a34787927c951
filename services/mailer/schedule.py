"""When the digest is due: a cron expression in a time zone. No clock in here: the caller says what time it is."""

from datetime import datetime

from libs.common.cron import Cron
from libs.common.wallclock import zone as iana_zone


class Schedule:
    """`expression` has 5 fields, or 6 with the seconds first, or is an alias; `zone` is an IANA name.

    Raises: ValueError for an expression that cannot be read or never comes, or an unknown zone.
    """

    def __init__(self, expression: str, zone: str) -> None:
        self._cron = Cron.parse(expression, iana_zone(zone))

    def after(self, moment: datetime) -> datetime:
        """The first fire after `moment`, aware UTC. Fires missed in between are one: ask again from now."""
        occurrence = self._cron.after(moment)
        if occurrence is None:
            raise ValueError("never comes again")
        return occurrence.at
