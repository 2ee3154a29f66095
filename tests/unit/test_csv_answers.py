"""CSV that no spreadsheet runs, and which form of an answer a client gets."""

import csv
import io

import pytest

from app.http.accept import CSV, JSON, preferred
from app.http.csv_answers import Cell, Told, csv_headers, csv_lines, formula_safe


@pytest.mark.parametrize(
    "text",
    [
        "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\tplain", " =1", "   -1", "\u00a0=1", "\u3000=1",
        "＝1+1", "＋1", "－1", "＠SUM(A1)", " ＝1", "﹦1", "﹢1", "−1", "\u200b=1", "\u2060\u200d @x", "\ufeff=1",
    ],
)  # fmt: skip
def test_what_a_spreadsheet_could_run_gets_an_apostrophe(text: str) -> None:
    assert formula_safe(text) == "'" + text


@pytest.mark.parametrize(
    "text", ["", " ", "plain", "1-1", "a=b", "invoice-1001", "'=1", "ä", "½", "(1)", "\u200d", "*"]
)
def test_other_texts_stay(text: str) -> None:
    assert formula_safe(text) == text


def test_rows_come_back_as_they_were_written() -> None:
    rows: list[list[Cell]] = [
        ["a", 1, None, "-2.5"],
        ['say "hi"', "x,y", "two\r\nlines", " blank "],
        ["grt_a=12.5; credit=3", "ü", "", 0],
    ]
    written = csv_lines(rows)
    assert written.startswith('a,1,,-2.5\r\n"say ""hi"""')
    read = list(csv.reader(io.StringIO(written, newline="")))
    assert read == [["" if cell is None else str(cell) for cell in row] for row in rows]


def test_only_what_people_wrote_is_changed_and_it_is_always_quoted() -> None:
    assert csv_lines([["-5", -5, Told("-5"), Told("fine"), Told('=cmd|"x"')]]) == (
        '-5,-5,"\'-5","fine","\'=cmd|""x"""\r\n'
    )


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("statement-ada", "statement-ada"),
        ('a"; filename="x.exe', "a_filename_x_exe"),
        ("../../etc/passwd\r\nX: y", "etc_passwd_X_y"),
        ("日本", "talktime"),
        ("x" * 500, "x" * 64),
    ],
)
def test_the_name_of_a_file_is_harmless(name: str, file: str) -> None:
    assert csv_headers(name)["Content-Disposition"] == f'attachment; filename="{file}.csv"'


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ([], JSON),
        ([""], JSON),
        (["*/*"], JSON),
        (["text/csv"], CSV),
        (["TEXT/CSV; charset=utf-8"], CSV),
        (["text/*"], CSV),
        (["application/json"], JSON),
        (["text/csv, */*"], CSV),
        (["*/*, text/csv;q=0.9"], JSON),
        (["text/csv, application/json"], JSON),
        (["text/csv;q=0.5, application/json;q=0.4"], CSV),
        (["text/csv;q=0.5, application/json;q=0.501"], JSON),
        (["text/csv;q=0, */*"], JSON),
        (["application/json;q=0, */*;q=0.1"], CSV),
        (["text/html", "text/csv;q=0.1"], CSV),
        (["text/html,application/xhtml+xml,*/*;q=0.8"], JSON),
        (["image/png"], JSON),
        (["text/csv;q=2"], JSON),
        (["text/csv;q=nonsense"], JSON),
        (["text/csv; q = 1.000"], CSV),
        ([";;;,,q=1,text/csv/x"], JSON),
        (["x/y," * 10_000 + "text/csv"], JSON),
    ],
)
def test_the_form_with_the_highest_quality_is_given(accept: list[str], form: str) -> None:
    assert preferred(accept, (JSON, CSV)) == form
