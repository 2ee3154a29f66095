"""Files of grants: read strictly, and every fault told with its line before anything is done."""
# ruff: noqa: E501 - a table, one case a line

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.accounts.bulk import COLUMNS, MAX_ROWS, read_grants
from app.core.ledger import GrantKind
from app.core.units import parse_instant
from app.documents import MAX_ERRORS
from app.errors import Problem
from app.http.csv_answers import csv_lines

HEAD = "user_id,amount,reference\r\n"


def faults(body: bytes | str, most: int = MAX_ROWS) -> list[tuple[str, str]]:
    with pytest.raises(Problem) as caught:
        read_grants(body.encode() if isinstance(body, str) else body, most)
    assert caught.value.status == 422
    return [(error.pointer, error.detail) for error in caught.value.errors]


def test_a_file_is_read_whatever_the_order_of_its_columns() -> None:
    body = (
        "REFERENCE, Amount ,metadata,user_id,kind,priority,expires_at,effective_at,cost_basis,reason\r\n"
        'r-1,12.5,"{""note"": 1.50}",ada,promotional,7,2100-01-01T00:00:00Z,2099-01-01T00:00:00Z,0.05,gift\r\n'
        "\r\n"
        '"r,""2""",1,,"a\nb".,,,,,,\r\n'
    ).replace('"a\nb".', "bob/x")
    one, two = read_grants(b"\xef\xbb\xbf" + body.encode())
    assert (one.line, one.user_id, one.grant.amount, one.grant.reference) == (2, "ada", 12_500_000, "r-1")
    assert (one.grant.kind, one.grant.priority, one.grant.reason) == (GrantKind.PROMOTIONAL, 7, "gift")
    assert one.grant.expires_at == parse_instant("2100-01-01T00:00:00Z")
    assert one.grant.cost_basis == 50_000
    assert one.grant.metadata == {"note": "1.50"}
    assert (two.line, two.user_id, two.grant.reference) == (4, "bob/x", 'r,"2"')
    assert (two.grant.kind, two.grant.priority, two.grant.metadata) == (GrantKind.PAID, 50, {})


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_line_end_will_do_and_none_at_the_end(end: str) -> None:
    body = f"user_id,amount,reference{end}ada,1,r-1{end}bob,2,r-2"
    assert [row.user_id for row in read_grants(body.encode())] == ["ada", "bob"]


FAULTS: dict[str, tuple[bytes | str, list[tuple[str, str]]]] = {
    "nothing": ("", [("/1", "there is no header line: " + ",".join(COLUMNS))]),
    "a header alone": (HEAD, [("/2", "there is no row")]),
    "a column that is not known": ("user_id,amount,reference,note\r\n", [("/1", f"column 4, 'note', is none of {', '.join(COLUMNS)}")]),
    "a column without a name": ("user_id,amount,reference,\r\n", [("/1", f"column 4, '', is none of {', '.join(COLUMNS)}")]),
    "a column twice": ("user_id,amount,reference,amount\r\n", [("/1/amount", "stands twice")]),
    "no reference": ("user_id,amount\r\nada,1\r\n", [("/1/reference", "is missing")]),
    "semicolons": ("user_id;amount;reference\r\n", [("/1", f"column 1, 'user_id;amount;reference', is none of {', '.join(COLUMNS)}"),
                                                    *((f"/1/{name}", "is missing") for name in COLUMNS[:3])]),
    "a row too short": (HEAD + "ada,1\r\n", [("/2", "has 2 cells, the header 3")]),
    "a row too long": (HEAD + "ada,1,r,x\r\n", [("/2", "has 4 cells, the header 3")]),
    "empty cells": (HEAD + ",,\r\n", [(f"/2/{name}", "is required") for name in COLUMNS[:3]]),
    "an open quote": (HEAD + 'ada,1,"r\r\nbob,1,x\r\n', [("/2", "is no CSV: unexpected end of data")]),
    "a quote in a cell": (HEAD + 'ada,1,"r"x\r\n', [("/2", "is no CSV: ',' expected after '\"'")]),
    "not UTF-8": (HEAD.encode() + b"ada,1,\xff\r\n", [("/2", "is not UTF-8")]),
    "UTF-16": (HEAD.encode("utf-16"), [("/1", "is not UTF-8")]),
    "a NUL": (HEAD + "ada,1,r\x00\r\n", [("/2", "holds a NUL")]),
    "an amount with a sign": (HEAD + "ada,+1,r\r\n", [("/2/amount", "must be a plain decimal such as 12.5")]),
    "an amount of 0": (HEAD + "ada,0,r\r\n", [("/2/amount", "must be more than 0")]),
    "an amount with a comma": (HEAD + 'ada,"1,5",r\r\n', [("/2/amount", "must be a plain decimal such as 12.5")]),
    "a blank before an amount": (HEAD + "ada, 1,r\r\n", [("/2/amount", "must be a plain decimal such as 12.5")]),
    "a user that none can be": (HEAD + '"a\tb",1,r\r\n', [("/2/user_id", "must hold printable characters only")]),
    "a user too long": (HEAD + "x" * 129 + ",1,r\r\n", [("/2/user_id", "must have 1 to 128 characters")]),
    "a reference twice": (HEAD + "ada,1,r\r\nbob,1,r\r\nada,2,r\r\n", [("/4/reference", "stands for this user on line 2 as well")]),
    "a reserved reference": (HEAD + "ada,1,recurring:1:0\r\n", [("/2", "references that begin so are those of recurring grants")]),
    "metadata that is no JSON": ("user_id,amount,reference,metadata\r\nada,1,r,{\r\n", [("/2/metadata", "is no JSON: not valid JSON")]),
    "metadata that is a list": ("user_id,amount,reference,metadata\r\nada,1,r,[]\r\n", [("/2/metadata", "must be a JSON object")]),
    "a priority that is no number": ("user_id,amount,reference,priority\r\nada,1,r,low\r\n", [("/2/priority", "must be a whole number")]),
    "a kind that is none": ("user_id,amount,reference,kind\r\nada,1,r,gift\r\n", [("/2/kind", "must be 'paid' or 'promotional'")]),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_with_its_line(name: str) -> None:
    body, told = FAULTS[name]
    assert faults(body) == told


def test_all_faults_are_told_at_once_and_no_more_than_fit() -> None:
    rows = "".join(f"ada,{'x' if n % 2 else 1},r-{n}\r\n" for n in range(10))
    assert [pointer for pointer, _ in faults(HEAD + rows)] == [f"/{n + 2}/amount" for n in range(10) if n % 2]
    assert len(faults(HEAD + "ada,x,r\r\n" * 1000)) == MAX_ERRORS


def test_the_line_is_that_of_the_file_whatever_stands_in_cells() -> None:
    body = 'user_id,amount,reference,metadata\n"ada",1,r-1,"{\n\n}"\n\nbob,x,r-2,\n'
    assert faults(body) == [("/6/amount", "must be a plain decimal such as 12.5")]


def test_there_is_a_most_of_rows() -> None:
    body = HEAD + "".join(f"ada,1,r-{n}\r\n" for n in range(3))
    assert len(read_grants(body.encode(), 3)) == 3
    assert faults(body, 2) == [("/4", "there are more than 2 rows")]


names = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters="\x85"), min_size=1, max_size=20)


@given(st.lists(st.tuples(names, st.integers(1, 10**18), names), min_size=1, max_size=5, unique_by=lambda row: row[0]))
def test_what_is_written_as_csv_is_read_again(rows: list[tuple[str, int, str]]) -> None:
    given_rows = [(user, f"{amount // 10**6}.{amount % 10**6:06}", reference) for user, amount, reference in rows]
    try:
        found = read_grants(csv_lines([COLUMNS[:3], *given_rows]).encode())
    except Problem as problem:
        assert all("printable" in error.detail or "reserved" in error.detail for error in problem.errors)  # noqa: PT017
        return
    assert [(row.user_id, row.grant.amount, row.grant.reference) for row in found] == rows
