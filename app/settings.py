"""Configuration from the environment and ``.env``; an unknown or bad value stops the start with a clear message.

Times are in seconds, fractions allowed, so that tests can run time fast. docs/configuration.md lists every setting.
"""

import os
import re
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.core.budget import MAX_RATE
from app.core.units import US_PER_DAY, InvalidQuantity, MicroCredits, Micros, parse_credits, parse_seconds
from app.ports.clock import Clock, ScaledClock, SystemClock

PREFIX: Final = "TALKTIME_"
_NOT_SETTINGS: Final = {
    "TALKTIME_TEST_DATABASE_URL",
    "TALKTIME_SUPERUSER_PASSWORD",
    "TALKTIME_OWNER_PASSWORD",
    "TALKTIME_SERVICE_PASSWORD",
}
"""Variables with our prefix that are for the tests and for docker-compose.yml."""

MIN_SECRET_LENGTH: Final = 16

OWN_ISSUER: Final = "talktime"
"""The ``iss`` of the user tokens that we issue."""

MIN_SHARED_SECRET_LENGTH: Final = 32
"""The key of HS256 must be no shorter than its hash (RFC 7518, 3.2), and as many bits will do for HS384 and HS512."""

_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}

MIN_RETENTION_DAYS: Final = 7
"""The database drops no younger heartbeats, whoever asks (migration 0003)."""


class Capability(StrEnum):
    """What a deployment of the provider can do beyond what its guide promises."""

    END = "end"
    """``POST /api/v1/session/{id}/end``."""


class BadSettings(Exception):
    """The configuration cannot be used. The message names each variable and holds no value."""


def _seconds(value: Any) -> Micros:
    try:
        return parse_seconds(Decimal(str(value)))
    except (InvalidQuantity, ArithmeticError):
        raise ValueError("must be a number of seconds from 0, with at most 6 decimals") from None


def _positive(value: Micros) -> Micros:
    if value <= 0:
        raise ValueError("must be more than 0")
    return value


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an http or https address")
    return value.rstrip("/")


def _secure_address(value: str) -> str:
    parts = urlsplit(value)
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not secure or not parts.hostname or parts.fragment or parts.username:
        raise ValueError("must be an https address")
    return value


def _database_url(value: str) -> str:
    if not value.startswith(("postgresql://", "postgres://")):
        raise ValueError("must begin with postgresql://")
    return "postgresql://" + value.split("://", 1)[1]


def _secrets(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _long_enough(values: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if any(len(value.get_secret_value()) < MIN_SECRET_LENGTH for value in values):
        raise ValueError(f"each secret must have at least {MIN_SECRET_LENGTH} characters")
    return values


def _texts(value: Any) -> Any:
    return _secrets(value)


def _clock(value: str) -> str:
    try:
        ScaledClock.parse(value)
    except ValueError:
        raise ValueError("must have the form speed@origin_us@anchor_us") from None
    return value


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    """Origins as browsers write them: an exact comparison must not miss one that a person wrote otherwise."""
    for value in values:
        try:
            parts = urlsplit(value)
            port = parts.port
        except ValueError:
            raise ValueError(_NO_ORIGIN) from None
        host = parts.hostname or ""
        written = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{'' if port is None else f':{port}'}"
        if (
            parts.scheme not in {"http", "https"}
            or not _HOST.fullmatch(host)
            or written != value
            or port == {"http": 80, "https": 443}[parts.scheme]
        ):
            raise ValueError(_NO_ORIGIN)
    return values


def _network(text: str) -> IPv4Network | IPv6Network:
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    # Peers are known by the IPv4 address that they have.
    return network if mapped is None else IPv4Network((mapped, max(0, network.prefixlen - 96)))


def _networks(value: Any) -> Any:
    try:
        return tuple(_network(text) for text in _texts(value))
    except ValueError:
        raise ValueError("each must be an address or a network, such as 10.0.0.7 or 10.0.0.0/8") from None


def _rates(value: Any) -> Any:
    """Credits for the smallest unit of a currency: ``usd=0.1,jpy=12`` as micro-credits by currency."""
    if not isinstance(value, str):
        return value
    found: dict[str, MicroCredits] = {}
    for part in _secrets(value):
        currency, _, rate = part.partition("=")
        currency = currency.strip().lower()
        if not _CURRENCY.fullmatch(currency) or currency in found:
            raise ValueError(_NO_RATE)
        try:
            found[currency] = parse_credits(rate.strip())
        except InvalidQuantity as error:
            raise ValueError(f"{currency}: {error}") from None
        if found[currency] <= 0:
            raise ValueError(f"{currency}: must be more than 0")
    return tuple(found.items())


_CURRENCY: Final = re.compile(r"[a-z]{3}")
_NO_RATE: Final = "must be currencies, each once, and credits for the smallest unit of each, such as usd=0.1,jpy=12"
_HOST: Final = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_NO_ORIGIN: Final = (
    "each must be an origin as browsers send it, such as https://app.example: lower case, no path, no * and no port "
    "that the scheme has anyway"
)


Seconds = Annotated[Micros, BeforeValidator(_seconds)]
PositiveSeconds = Annotated[Micros, BeforeValidator(_seconds), AfterValidator(_positive)]
Secrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_secrets), AfterValidator(_long_enough)]
ProviderCan = Annotated[tuple[Capability, ...], NoDecode, BeforeValidator(_texts)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_texts), AfterValidator(_origins)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]
Rates = Annotated[tuple[tuple[str, MicroCredits], ...], NoDecode, BeforeValidator(_rates)]
WebAddress = Annotated[str, AfterValidator(_web_address)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]


def _s(value: int) -> Micros:
    return Micros(value * 1_000_000)


class Settings(BaseSettings):
    """Every setting; the variable is the name in capitals behind ``TALKTIME_``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", extra="ignore", frozen=True, validate_default=False
    )

    database_url: DatabaseUrl | None = None
    migration_database_url: DatabaseUrl | None = None
    data_dir: Path = Path(".talktime")
    postgres_bin_dir: Path | None = None

    gabber_base_url: WebAddress = "https://app.gabber.dev"
    gabber_api_key: SecretStr | None = None
    gabber_capabilities: ProviderCan = ()
    public_url: WebAddress = "http://127.0.0.1:8000"

    secret: Secrets = ()
    ledger_keys: Secrets = ()
    bootstrap_admin_key: Annotated[SecretStr | None, Field(min_length=MIN_SECRET_LENGTH)] = None

    user_token_issuer: Annotated[str | None, Field(min_length=1)] = None
    """The ``iss`` of user tokens that the customer's own backend issues; they are checked by one of the next two."""

    user_token_secret: Annotated[SecretStr | None, Field(min_length=MIN_SHARED_SECRET_LENGTH)] = None
    user_token_jwks_url: Annotated[str | None, AfterValidator(_secure_address)] = None
    user_token_audience: Annotated[str | None, Field(min_length=1)] = None
    user_token_claim: Annotated[str, Field(min_length=1)] = "sub"  # noqa: S105 - the claim's name
    user_token_max_ttl_s: PositiveSeconds = _s(86400)

    max_session_s: PositiveSeconds = _s(3600)
    min_session_s: PositiveSeconds = _s(30)
    unconfirmed_ttl_s: PositiveSeconds = _s(180)
    settle_delay_s: Seconds = _s(120)
    reconcile_interval_s: PositiveSeconds = _s(60)
    no_heartbeat_grace_s: Seconds = _s(600)
    evidence_wait_s: PositiveSeconds = _s(86400)
    review_after_s: PositiveSeconds = _s(86400)
    goodwill_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    rerate_window_s: Seconds = _s(259200)
    tick_retention_days: Annotated[int, Field(ge=MIN_RETENTION_DAYS, le=36_500)] = 90
    provider_timeout_s: PositiveSeconds = _s(10)
    events_allow_private_targets: bool = False
    """Whether events may go to private and loopback addresses, and without TLS: for development only."""

    events_timeout_s: PositiveSeconds = _s(10)
    delivery_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    provider_max_rps: Annotated[int, Field(ge=1, le=MAX_RATE)] = 50

    stripe_webhook_secrets: Secrets = ()
    """Of the endpoint that Stripe sends events to; several while one is changed. None: nothing is received."""

    stripe_live: bool = True
    """Whether payments of live mode are taken; else those of test mode."""

    stripe_credits_per_minor_unit: Rates = ()
    """Credits for the smallest unit of a currency, where the checkout session does not tell them."""

    cors_origins: Origins = ()
    portal_frame_origins: Origins = ()
    """Whose pages may frame the user's portal."""

    trusted_proxies: Networks = ()
    """Peers whose ``X-Forwarded-For`` is believed."""

    receive_timeout_s: PositiveSeconds = _s(60)
    caller_max_rps: Annotated[int, Field(ge=0, le=MAX_RATE)] = 500
    webhook_max_rps: Annotated[int, Field(ge=0, le=MAX_RATE)] = 5
    live_max_streams: Annotated[int, Field(ge=0, le=1_000_000)] = 20_000
    live_max_streams_per_user: Annotated[int, Field(ge=1, le=10_000)] = 10
    live_max_stream_s: PositiveSeconds = _s(3600)
    failed_auth_max_rpm: Annotated[int, Field(ge=0, le=MAX_RATE)] = 120

    log_format: Annotated[str, Field(pattern="^(json|text)$")] = "json"

    clock: Annotated[str, AfterValidator(_clock)] | None = None
    """A scaled clock shared with other processes of this machine: for demonstrations, never with real money."""

    def make_clock(self) -> Clock:
        return SystemClock() if self.clock is None else ScaledClock.parse(self.clock)


def load_settings(**given: Any) -> Settings:
    """Read the environment and ``.env``; ``given`` settings win. Raises :class:`BadSettings` with every fault."""
    faults = [f"{name}: is not a setting" for name in sorted(_unknown_variables())]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            name = str(item["loc"][0]) if item["loc"] else ""
            faults.append(f"{PREFIX}{name.upper()}: {item['msg'].removeprefix('Value error, ')}")
        raise BadSettings("\n".join(faults)) from None
    if faults:
        raise BadSettings("\n".join(faults))
    if settings.min_session_s > settings.max_session_s:
        raise BadSettings("TALKTIME_MIN_SESSION_S: must not be over TALKTIME_MAX_SESSION_S")
    _check_issuer(settings)
    needed = settings.evidence_wait_s + settings.review_after_s + settings.rerate_window_s
    if settings.tick_retention_days * US_PER_DAY < needed:
        raise BadSettings(
            f"TALKTIME_TICK_RETENTION_DAYS: must be at least {-(-needed // US_PER_DAY)}, because heartbeats are needed"
            " for as long as TALKTIME_EVIDENCE_WAIT_S, TALKTIME_REVIEW_AFTER_S and TALKTIME_RERATE_WINDOW_S together"
        )
    return settings


class _Given(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)


def settings_of(**given: Any) -> Settings:
    """These settings and the defaults of the others, whatever the environment says."""
    return _Given(**given)


def _check_issuer(settings: Settings) -> None:
    keys = [name for name in ("user_token_secret", "user_token_jwks_url") if getattr(settings, name) is not None]
    if settings.user_token_issuer is None:
        if keys or settings.user_token_audience is not None:
            raise BadSettings("TALKTIME_USER_TOKEN_ISSUER: is needed with the other settings of user tokens")
    elif settings.user_token_issuer == OWN_ISSUER:
        raise BadSettings(f"TALKTIME_USER_TOKEN_ISSUER: {OWN_ISSUER} is our own name, and cannot be another's")
    elif len(keys) != 1:
        raise BadSettings("TALKTIME_USER_TOKEN_ISSUER: needs one of TALKTIME_USER_TOKEN_SECRET and _JWKS_URL")
    elif settings.user_token_jwks_url is not None and settings.user_token_audience is None:
        raise BadSettings(
            "TALKTIME_USER_TOKEN_AUDIENCE: is needed with TALKTIME_USER_TOKEN_JWKS_URL, because such an issuer makes"
            " tokens for other services as well"
        )


def _unknown_variables() -> set[str]:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _NOT_SETTINGS
    return {name for name in _given_variables() if name.upper() not in known}


def _given_variables() -> set[str]:
    names = set(os.environ)
    env_file = Path(".env")
    if env_file.is_file():
        lines = env_file.read_text(encoding="utf-8").splitlines()
        names |= {line.removeprefix("export ").split("=", 1)[0].strip() for line in lines if "=" in line}
    return {name for name in names if name.upper().startswith(PREFIX)}
