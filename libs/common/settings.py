"""What a process is told from outside: the environment, and one file per secret under /run/secrets.

Answers for: the settings every service shares, and `load`, which reports every mistake at once.
A service declares its own type beside its `__main__`, from `CommonSettings` and the mixins it needs.
pydantic does not see unknown variables, so a misspelt one would pass in silence: `load` looks for them.
"""

import difflib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)
from yarl import URL

from libs.common.egress import EgressRules, server_ports
from libs.common.topology import DEFAULT_RETRY_SCHEDULE_S

PREFIX = "CARILLON_"
SECRETS_DIR = Path("/run/secrets")

_COMMON = "AMQP_URL POSTGRES_URL REDIS_URL LOG_LEVEL ADMIN_HOST ADMIN_PORT REPLICA DRAIN_S"
_SHARED = "RETRY_SCHEDULE_S SIGNING_MASTER_KEY PUBLIC_URL ALLOW_NETWORKS DENY_NETWORKS DENY_PORTS"
_INGEST = (
    "HOST PORT BOOTSTRAP_KEY LEGACY_PROJECT LEGACY_SUCCESS LEGACY_PAST_DELAY_S REDIS_INTAKE_KEY RETENTION_DAYS"
    " BODY_BYTES_MAX TRUSTED_PROXIES"
)
_SCHEDULER = "TOMBSTONE_DAYS HORIZON_S"
_DISPATCHER = "CA_FILE EGRESS_PROXY CONCURRENCY CONCURRENCY_PER_HOST URGENT_LABELS"
_MAILER = "SMTP_URL DIGEST_TO DIGEST_FROM DIGEST_CRON DIGEST_TIMEZONE DIGEST_TO_PROJECTS"
_CLIENT = "URL KEY API_KEY"

KNOWN_VARIABLES: frozenset[str] = frozenset(
    PREFIX + name
    for names in (_COMMON, _SHARED, _INGEST, _SCHEDULER, _DISPATCHER, _MAILER, _CLIENT)
    for name in names.split()
)
"""Every variable of every service, the set-up step and the client: they may share one environment file."""

_DELAY_S_MIN, _DELAY_S_MAX = 0.001, 7 * 86_400
_KEY_CHARS_MIN, _KEY_DIFFERENT_MIN = 32, 9
"""Of a random key in hex, one in 300,000 has fewer different characters; CHANGE-ME-CHANGE-ME always has."""

S = TypeVar("S", bound=BaseSettings)


class SettingsError(Exception):
    """The process was told something wrong. One line per variable: its name, what is wrong, what to do."""


def _comma_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(part for part in (part.strip() for part in value.split(",")) if part)


CommaStrings = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
"""A list written `a,b,c`. NoDecode, because pydantic-settings would want JSON."""

CommaFloats = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_comma_list)]
"""A list of numbers written `5,15,30`."""


CommaPorts = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], NoDecode, BeforeValidator(_comma_list)]
"""A list of ports written `5433,9200`."""


def _begins_with(*schemes: str) -> Callable[[SecretStr], SecretStr]:
    def check(url: SecretStr) -> SecretStr:
        if not url.get_secret_value().startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"should begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return url

    return check


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _each_a_delay(delays_s: tuple[float, ...]) -> tuple[float, ...]:
    if not all(_DELAY_S_MIN <= delay_s <= _DELAY_S_MAX for delay_s in delays_s):
        raise ValueError("each delay should be between 0.001 and 604800 seconds (a week)")
    return delays_s


def _each_openable(networks: tuple[str, ...]) -> tuple[str, ...]:
    return _checked(networks, lambda network: EgressRules(allow_networks=(network,)))


def _each_a_network(networks: tuple[str, ...]) -> tuple[str, ...]:
    return _checked(networks, lambda network: EgressRules(deny_networks=(network,)))


Networks = Annotated[CommaStrings, AfterValidator(_each_a_network)]
"""A list of networks written `10.1.0.0/16,fd00::/8`."""


def _checked(networks: tuple[str, ...], make: Callable[[str], EgressRules]) -> tuple[str, ...]:
    for network in networks:
        try:
            make(network)
        except ValueError as error:
            raise ValueError(f"'{network}' is no network; write it like 10.1.0.0/16 or fd00::/8 ({error})") from None
    return networks


def _random_looking(key: SecretStr) -> SecretStr:
    text = key.get_secret_value().strip()
    if len(text) < _KEY_CHARS_MIN or len(set(text)) < _KEY_DIFFERENT_MIN:
        raise ValueError(f"should be random, {_KEY_CHARS_MIN} characters or more")
    return SecretStr(text)


LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]

AdminPort = Annotated[
    int, Field(ge=0, le=65535, description="Port of /livez, /readyz and /metrics; 0 takes any free one.")
]
"""A service overrides `admin_port` with its default, keeping this type."""


class _PrefixedSettings(BaseSettings):
    # One parent for all, so that the mixins may stand in any order.
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)


class AmqpSettings(_PrefixedSettings):
    """Mixin of what talks to RabbitMQ but serves no admin port (the set-up step)."""

    amqp_url: Annotated[SecretStr, AfterValidator(_begins_with("amqp", "amqps"))] = Field(
        description="RabbitMQ, as amqp://user:password@host:5672/vhost; amqps for TLS."
    )
    log_level: LogLevel = Field("info", description="Least severe log line written: debug, info, warning or error.")


class CommonSettings(AmqpSettings):
    """What all four services are told."""

    admin_host: str = Field(
        "0.0.0.0",  # noqa: S104  inside a container, whose network decides who can reach it
        description="Address that the admin port listens on.",
    )
    admin_port: AdminPort
    replica: str = Field(
        default_factory=socket.gethostname, description="Name of this replica in logs; else the host name."
    )
    drain_s: float = Field(
        30, gt=0, description="Seconds to finish what is in hand after SIGTERM, before it is cut off."
    )


class PostgresSettings(_PrefixedSettings):
    """Mixin of a service with tables."""

    postgres_url: Annotated[SecretStr, AfterValidator(_begins_with("postgres", "postgresql"))] = Field(
        description="PostgreSQL, as postgres://user:password@host:5432/database; ?sslmode=verify-full for TLS."
    )


class RedisSettings(_PrefixedSettings):
    """Mixin of a service with Redis keys."""

    redis_url: Annotated[SecretStr, AfterValidator(_begins_with("redis", "rediss", "unix"))] = Field(
        description="Redis or Valkey, as redis://:password@host:6379/0; rediss for TLS."
    )


class LadderSettings(_PrefixedSettings):
    """Mixin of who needs to know the rungs: the dispatcher, and the set-up step that declares them."""

    retry_schedule_s: Annotated[CommaFloats, AfterValidator(_each_a_delay)] = Field(
        DEFAULT_RETRY_SCHEDULE_S,
        description="Seconds before each retry; one rung (queue) per distinct value.",
    )


class EgressSettings(_PrefixedSettings):
    """Mixin of who decides where a call may go: ingest with what the URL says, the dispatcher with what it dials."""

    allow_networks: Annotated[CommaStrings, AfterValidator(_each_openable)] = Field(
        (), description="Networks (CIDRs) that calls may reach although they are private; none by default."
    )
    deny_networks: Networks = Field(
        (), description="Networks (CIDRs) that no call may reach, even inside an opened one."
    )
    deny_ports: CommaPorts = Field(
        (), description="Ports that no call may reach in an opened network, beside those of Carillon's own servers."
    )

    def egress_rules(self, *server_urls: SecretStr, own_ports: Iterable[int] = ()) -> EgressRules:
        """The rule of this process, which knows these servers."""
        of_servers = server_ports(*(url.get_secret_value() for url in server_urls))
        return EgressRules(self.allow_networks, self.deny_networks, {*self.deny_ports, *own_ports, *of_servers})


MasterKey = Annotated[SecretStr, AfterValidator(_random_looking)]
MASTER_KEY = "What signing secrets are derived from, the same for all replicas: openssl rand -base64 32"


class SigningSettings(_PrefixedSettings):
    """Mixin of who cannot do without: what signs calls, and what prints a secret."""

    signing_master_key: MasterKey = Field(description=MASTER_KEY)


def _web_address(url: str | None) -> str | None:
    if url is None:
        return None
    parts = URL(url)
    if parts.scheme not in {"http", "https"} or not parts.host or parts.query_string or parts.fragment:
        raise ValueError("should be the address of ingest as people reach it, such as https://carillon.example.com")
    return url.rstrip("/")


class PublicSettings(_PrefixedSettings):
    """Mixin of who writes links, or serves what they lead to."""

    public_url: Annotated[str | None, AfterValidator(_web_address)] = Field(
        None,
        description="Address of ingest as people reach it, for the links in mails and of the console. With http:// the"
        " console's cookie is sent without encryption.",
    )


def load(settings_type: type[S], environ: Mapping[str, str] | None = None, *, secrets_dir: Path = SECRETS_DIR) -> S:
    """The settings of this process, from `environ` (os.environ if None), then from files in `secrets_dir`.

    Raises `SettingsError` listing every unknown, missing and ill-typed variable, and no secret's value.
    """
    environ = os.environ if environ is None else environ
    complaints = list(_unknown(environ, settings_type))
    try:
        settings = settings_type(_build_sources=(_sources(settings_type, environ, secrets_dir), {}))
    except ValidationError as error:
        complaints += [_complaint(settings_type, detail) for detail in error.errors(include_url=False)]
        raise SettingsError("\n".join(complaints)) from None  # the cause's text quotes the values
    if complaints:
        raise SettingsError("\n".join(complaints))
    return settings


def variable_of(field_name: str) -> str:
    """The environment variable of a field: `amqp_url` gives `CARILLON_AMQP_URL`."""
    return PREFIX + field_name.upper()


def _sources(
    settings_type: type[BaseSettings], environ: Mapping[str, str], secrets_dir: Path
) -> tuple[PydanticBaseSettingsSource, ...]:
    from_environ = EnvSettingsSource(settings_type)
    # Compose passes `${X:-}` for what nobody set, so an empty variable counts as an absent one.
    from_environ.env_vars = {name.lower(): value for name, value in environ.items() if value}
    if not secrets_dir.is_dir():  # pydantic would warn on every start outside a container
        return (from_environ,)
    return (from_environ, SecretsSettingsSource(settings_type, secrets_dir))


def _unknown(environ: Mapping[str, str], settings_type: type[BaseSettings]) -> Iterator[str]:
    known = KNOWN_VARIABLES | {variable_of(name) for name in settings_type.model_fields}
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1)
            advice = f"did you mean {nearest[0]}? Rename or unset it" if nearest else "unset it"
            yield f"{name}: no service knows this variable; {advice}"


def _complaint(settings_type: type[BaseSettings], detail: ErrorDetails) -> str:
    if not detail["loc"]:  # a validator of the whole type, whose text names the variables
        return _reason(detail)
    field_name = str(detail["loc"][0])
    variable, field = variable_of(field_name), settings_type.model_fields[field_name]
    meaning = f" ({field.description})" if field.description else ""
    if detail["type"] == "missing":
        return f"{variable}: is not set; set it or write {SECRETS_DIR}/{variable.lower()}{meaning}"
    if "Secret" in repr(field.annotation):
        return f"{variable}: {_without(str(detail['input']), _reason(detail))}; correct it{meaning}"
    return f"{variable}: {_reason(detail)}, not {detail['input']!r}; correct it{meaning}"


def _reason(detail: ErrorDetails) -> str:
    text = detail["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _without(secret: str, text: str) -> str:
    # A validator's text may quote what it refused.
    return text.replace(secret, "<hidden>") if secret else text
