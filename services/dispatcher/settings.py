"""What a dispatcher process is told."""

from typing import Annotated

from pydantic import AfterValidator, Field

from libs.common.ports import ADMIN_PORTS
from libs.common.settings import AdminPort, CommaStrings, CommonSettings, LadderSettings, RedisSettings
from services.dispatcher.guard import policy_of


def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        try:
            policy_of((text,))
        except ValueError as error:
            raise ValueError(f"'{text}' is no network; write it like 10.1.0.0/16 or fd00::/8 ({error})") from None
    return texts


class DispatcherSettings(CommonSettings, RedisSettings, LadderSettings):
    admin_port: AdminPort = ADMIN_PORTS["dispatcher"]
    concurrency: int = Field(200, ge=1, le=10_000, description="Calls in flight at once, in tasks.")
    allow_networks: Annotated[CommaStrings, AfterValidator(_networks)] = Field(
        (), description="Networks (CIDRs) that calls may reach although they are private; none by default."
    )
