"""What an ingest process is told."""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from libs.common.egress import EgressRules
from libs.common.ports import ADMIN_PORTS
from libs.common.settings import (
    MASTER_KEY,
    AdminPort,
    CommonSettings,
    EgressSettings,
    MasterKey,
    Networks,
    PostgresSettings,
    PublicSettings,
    RedisSettings,
)

INTAKE_KEY = "delay_queue_task"
"""The ancestor's list."""


class IngestSettings(CommonSettings, PostgresSettings, RedisSettings, EgressSettings, PublicSettings):
    admin_port: AdminPort = ADMIN_PORTS["ingest"]
    host: str = Field(
        "0.0.0.0",  # noqa: S104  inside a container, whose network decides who can reach it
        description="Address that the public HTTP interface listens on.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port of the public HTTP interface; 0 takes any free one.")
    bootstrap_key: SecretStr = Field(
        min_length=16, description="The API key of the project 'default', at least 16 characters."
    )
    signing_master_key: MasterKey | None = Field(None, description=MASTER_KEY)
    legacy_project: str | None = Field(
        None,
        description="Project of tasks from /api/task/save and from the Redis list; without one the form needs a key and"
        " no list is read.",
    )
    legacy_past_delay_s: float = Field(
        10, ge=0, le=86_400, description="Seconds until the call when the plan_time of a legacy task has passed."
    )
    legacy_success: Literal["status", "json"] = Field(
        "status",
        description="What a legacy task counts as success: status (any 2xx) or json (200 and a true `success`).",
    )
    redis_intake_key: str | None = Field(
        None,
        description=f"Redis list whose entries become tasks of the legacy project; {INTAKE_KEY} unless said otherwise.",
    )
    retention_days: int = Field(
        30, ge=1, le=3650, description="Days that finished tasks and their attempts stay readable."
    )
    trusted_proxies: Networks = Field(
        (),
        description="Networks (CIDRs) of reverse proxies whose X-Forwarded-For tells who logs in to the console; none"
        " by default.",
    )
    body_bytes_max: int = Field(
        262_144, ge=1024, le=16_777_216, description="Largest request body that is taken, in bytes; above it 413."
    )

    @model_validator(mode="after")
    def _list_has_a_project(self) -> Self:
        if self.redis_intake_key and not self.legacy_project:
            raise ValueError(
                "entries of a list carry no API key, so CARILLON_REDIS_INTAKE_KEY needs a project: set"
                " CARILLON_LEGACY_PROJECT, or unset it"
            )
        return self

    @property
    def intake_key(self) -> str | None:
        """The list to read; None for none."""
        return (self.redis_intake_key or INTAKE_KEY) if self.legacy_project else None

    def egress(self) -> EgressRules:
        """What may be called: not our own servers, nor ourselves."""
        return self.egress_rules(self.amqp_url, self.postgres_url, self.redis_url, own_ports=[self.admin_port])
