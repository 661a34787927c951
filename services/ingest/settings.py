"""What an ingest process is told."""

from typing import Literal

from pydantic import Field, SecretStr

from libs.common.ports import ADMIN_PORTS
from libs.common.settings import AdminPort, CommonSettings, EgressSettings, PostgresSettings


class IngestSettings(CommonSettings, PostgresSettings, EgressSettings):
    admin_port: AdminPort = ADMIN_PORTS["ingest"]
    host: str = Field(
        "0.0.0.0",  # noqa: S104  inside a container, whose network decides who can reach it
        description="Address that the public HTTP interface listens on.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port of the public HTTP interface; 0 takes any free one.")
    bootstrap_key: SecretStr = Field(
        min_length=16, description="The API key of the project 'default', at least 16 characters."
    )
    legacy_project: str | None = Field(
        None, description="Project of tasks from /api/task/save; unset, that door needs a key like the others."
    )
    legacy_past_delay_s: float = Field(
        10, ge=0, le=86_400, description="Seconds until the call when the plan_time of /api/task/save has passed."
    )
    legacy_success: Literal["status", "json"] = Field(
        "status",
        description="What /api/task/save counts as success: status (any 2xx) or json (200 and a true `success`).",
    )
    retention_days: int = Field(
        30, ge=1, le=3650, description="Days that finished tasks and their attempts stay readable."
    )
    body_bytes_max: int = Field(
        262_144, ge=1024, le=16_777_216, description="Largest request body that is taken, in bytes; above it 413."
    )
