"""Column types that speak the core's units."""

from datetime import datetime
from typing import Any

from sqlalchemy import TIMESTAMP, Dialect, LargeBinary
from sqlalchemy.types import TypeDecorator

from app.core.units import Instant, datetime_of, instant_of


class InstantType(TypeDecorator[Instant]):
    """``timestamptz`` as an :data:`~app.core.units.Instant`; both count whole microseconds."""

    impl = TIMESTAMP(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: Instant | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime_of(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Instant | None:
        return None if value is None else instant_of(value)


class BytesType(TypeDecorator[bytes]):
    """``bytea`` as plain ``bytes``, whatever buffer the driver hands out."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        return None if value is None else bytes(value)
