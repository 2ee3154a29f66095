"""Amounts, durations and instants on the wire: what is read, how it is written, what is refused."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from app.core.units import (
    MAX_AMOUNT,
    Instant,
    InvalidQuantity,
    MicroCredits,
    Micros,
    datetime_of,
    format_credits,
    format_instant,
    instant_of,
    millionths,
    parse_credits,
    parse_instant,
    parse_seconds,
    seconds,
)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("-0", 0),
        ("1", 1_000_000),
        ("24.46", 24_460_000),
        ("0.000001", 1),
        ("-0.000001", -1),
        ("1.500000", 1_500_000),
        ("1000000000000", 10**18),
        ("-1000000000000", -(10**18)),
        ("999999999999.999999", 10**18 - 1),
    ],
)
def test_an_amount_is_a_plain_decimal(text: str, amount: int) -> None:
    assert parse_credits(text) == amount


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "1 ", " 1", "1\n", "+1", "--1", "1.", ".5", "01", "-01", "1e3", "1E3", "1_000", "1,5", "0x1", "NaN",
        "nan", "Infinity", "-Infinity", "1.0000000", "0.0000001", "1000000000000.000001", "-1000000000000.000001",
        "10000000000000000000000000000000000", "١٢", "½", "true", "\u0000", "1\u0000", "\ud800",
    ],
)  # fmt: skip
def test_any_other_text_is_no_amount(text: str) -> None:
    with pytest.raises(InvalidQuantity):
        parse_credits(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1, "0.000001"),
        (-1, "-0.000001"),
        (24_460_000, "24.46"),
        (-1_000_000, "-1"),
        (100_000_000, "100"),
        (MAX_AMOUNT, "1000000000000"),
    ],
)
def test_an_amount_is_written_as_its_shortest_decimal(amount: int, text: str) -> None:
    assert format_credits(MicroCredits(amount)) == text
    assert parse_credits(text) == amount


def test_millionths_have_no_bound_of_an_amount() -> None:
    assert millionths("1000000000001") == 1_000_000_000_001_000_000


@pytest.mark.parametrize(
    ("number", "duration"),
    [
        ("0", 0),
        ("-0", 0),
        ("0E-40", 0),
        ("1", 1_000_000),
        ("0.000001", 1),
        ("1E-6", 1),
        ("1.50", 1_500_000),
        ("1E+3", 1_000_000_000),
        ("999999999.999999", 999_999_999_999_999),
        ("999999999.99999900000000000000000000000000000000", 999_999_999_999_999),
    ],
)
def test_seconds_are_read_to_the_microsecond(number: str, duration: int) -> None:
    assert parse_seconds(Decimal(number)) == duration


@pytest.mark.parametrize(
    "number",
    [
        "-0.000001", "-1", "1000000000", "1E+9", "1E+400000", "0.0000001", "1E-7", "1E-400000", "1.0000005", "NaN",
        "sNaN", "Infinity", "-Infinity", "1.0000000000000000000000000000000001",
        "123456789.123456000000000000000000000001",
    ],
)  # fmt: skip
def test_any_other_number_is_no_duration(number: str) -> None:
    with pytest.raises(InvalidQuantity):
        parse_seconds(Decimal(number))


def test_a_duration_is_written_in_seconds_without_trailing_zeros() -> None:
    assert [str(seconds(Micros(us))) for us in (0, 1, 1_500_000, 30_000_000)] == ["0", "0.000001", "1.5", "30"]


NOON = 1_772_366_400_000_000


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01t12:00:00z", NOON),
        ("2026-03-01 12:00:00Z", NOON),
        ("2026-03-01T13:30:00+01:30", NOON),
        ("2026-03-01T04:00:00-08:00", NOON),
        ("2026-03-01T12:00:00.5Z", NOON + 500_000),
        ("2026-03-01T12:00:00.123456Z", NOON + 123_456),
        ("2026-03-01T12:00:00.123456789Z", NOON + 123_456),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
    ],
)
def test_an_instant_is_rfc_3339_with_its_offset(text: str, instant: int) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-03-01", "2026-03-01T12:00:00", "2026-03-01T12:00Z", "20260301T120000Z", "2026-W09-7T12:00:00Z",
        "2026-03-01T12:00:00.Z", "2026-03-01T12:00:00,5Z", "2026-03-01T12:00:00.1234567890Z", "2026-03-01T12:00:00+01",
        "2026-03-01T12:00:00+0100", "2026-03-01T12:00:00Z ", "2026-03-01T12:00:00Z\n", "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z", "2026-03-01T24:00:00Z", "2026-03-01T23:59:60Z", "2026-03-01T12:00:00+24:00",
        "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "٢٠٢٦-03-01T12:00:00Z", "2026-03-01T12:00:00\u0000Z",
        "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01",
    ],
)  # fmt: skip
def test_any_other_text_is_no_instant(text: str) -> None:
    with pytest.raises(InvalidQuantity):
        parse_instant(text)


def test_an_instant_is_written_in_utc_with_six_decimals_so_that_texts_sort_as_instants_do() -> None:
    assert format_instant(Instant(NOON)) == "2026-03-01T12:00:00.000000Z"
    assert format_instant(Instant(-62_135_596_800_000_000)) == "0001-01-01T00:00:00.000000Z"
    assert parse_instant(format_instant(Instant(NOON + 1))) == NOON + 1


def test_datetimes_and_instants_are_the_same_to_the_microsecond() -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
    assert instant_of(moment) == NOON + 1
    assert datetime_of(Instant(NOON + 1)) == moment
