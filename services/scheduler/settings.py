"""What a scheduler process is told."""

from pydantic import Field

from libs.common.ports import ADMIN_PORTS
from libs.common.settings import AdminPort, CommonSettings, PostgresSettings


class SchedulerSettings(CommonSettings, PostgresSettings):
    admin_port: AdminPort = ADMIN_PORTS["scheduler"]
    horizon_s: float = Field(60, gt=0, le=3600, description="How far ahead the wheel is loaded, in seconds.")
    tombstone_days: int = Field(
        7, ge=1, le=365, description="How long the scheduler remembers what has fired, so that nothing fires twice."
    )
