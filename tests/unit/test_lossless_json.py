"""Numbers keep their digits on the way in and out; what is no JSON, or too deep, is refused."""

from decimal import Decimal

import pytest

from app.core.lossless_json import MAX_DEPTH, InvalidJson, JsonNumber, dumps, loads, plain_json


@pytest.mark.parametrize(
    "text",
    [
        "0", "-0", "1.50", "0.1", "1e400", "1E-400", "-12.30e+05", "0.30000000000000000000000000000000000001",
        "123456789012345678901234567890123456789012345678901234567890", "NaN", "Infinity", "-Infinity", "9" * 5000,
    ],
)  # fmt: skip
def test_a_number_comes_out_digit_for_digit(text: str) -> None:
    number = loads(text)
    assert isinstance(number, JsonNumber)
    assert dumps(number) == text
    assert dumps(loads(f'{{"seconds":[{text}]}}')) == f'{{"seconds":[{text}]}}'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.50", Decimal("1.50")),
        ("1e400", Decimal("1e400")),
        ("NaN", None),
        ("Infinity", None),
        ("-Infinity", None),
        ("1e99999999999999999999", None),
    ],
)
def test_a_number_has_an_exact_value_if_it_has_any(text: str, value: Decimal | None) -> None:
    number = loads(text)
    assert isinstance(number, JsonNumber)
    assert number.decimal() == value


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"b":[true,false,null,"x"]}', "[]", "{}", '""', '"\\ud800"', '{"\\udfff":1}', '"\\u0000"',
        '"\\ud83d\\ude00"',
        '"\\u00e9\\n\\"\\\\"', '[["1"],{"1":"1"}]',
    ],
)  # fmt: skip
def test_everything_else_comes_out_as_it_went_in_lone_surrogates_included(text: str) -> None:
    assert dumps(loads(text)) == text


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_of_json_is_refused_or_shown_as_a_string_where_it_has_to_be_json(constant: str) -> None:
    text = f'{{"a":[{constant},1.50,"{constant}",-0],"{constant}":1e400}}'
    for part in (text, constant, f"[{constant}]"):
        with pytest.raises(InvalidJson):
            loads(part, strict=True)
    assert dumps(loads(text), strict=True) == f'{{"a":["{constant}",1.50,"{constant}",-0],"{constant}":1e400}}'
    assert plain_json(text) == dumps(loads(text), strict=True)
    assert loads(f'["{constant}"]', strict=True) == [constant]


def test_what_is_json_is_shown_as_it_is() -> None:
    assert plain_json('{"a":1.50,"b":"\\ud800"}') == '{"a":1.50,"b":"\\ud800"}'


def test_a_text_of_digits_stays_a_text() -> None:
    assert type(loads('"1.50"')) is str
    assert dumps("1.50") == '"1.50"'


def test_a_repeated_name_counts_once_the_last_time() -> None:
    assert dumps(loads('{"a":1,"a":2}')) == '{"a":2}'


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "[1,]", '{"a":}', "'a'", "nul", "True", "01", "1.", ".5", "+1", "1 2", '"\n"', "\ufeff1", '{1:2}',
        b"\xff\xfe\xfa", b'"\xff"', b"\x00", "0x10", "-NaN",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_without_showing_it(text: str | bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        loads(text)
    assert str(caught.value) == "not valid JSON"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_the_deepest_nesting_is_read_and_no_deeper() -> None:
    assert dumps(loads(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    assert dumps(loads('{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH)).startswith('{"a":{"a"')
    for text in (nested(MAX_DEPTH + 1), '{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), nested(1_000_000)):
        with pytest.raises(InvalidJson, match="nested too deeply"):
            loads(text)


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12"), (-1, "-1"), (True, "true"), ((1, "a"), '[1,"a"]'), (None, "null")]
)
def test_our_own_values_are_written_too(value: object, text: str) -> None:
    assert dumps(value) == text


@pytest.mark.parametrize("value", [1.5, Decimal(1), b"x", {1}, object()])
def test_a_value_that_would_lose_something_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no lossless JSON form"):
        dumps(value)
