"""What commands tell while they work."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from app.terminal import show_findings, show_keys, show_replay, show_statement, told_progress


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_only_where_it_is_wanted(shown: bool) -> None:
    stream = StringIO()
    with told_progress(Console(file=stream, force_terminal=True, width=120), shown=shown) as tell:
        tell("entries", 500, 2000)
        tell("entries", 2000, 2000)
        tell("grants", 7, 7)
    told = stream.getvalue()
    assert ("2000/2000" in told, "grants" in told) == (shown, shown)
    assert (told == "") != shown


KEY, SESSION, GRANT = "key_" + "0123456789abcdef0123456789", "ses_" + "0" * 52, "grt_" + "1" * 52
ACCOUNT, ROW = "8f14e45f-ceea-467f-a0e6-b1f0d2a3c4d5", "0192f0c4-7d6e-7a3b-9c1d-2e3f4a5b6c7d"
LONG = "a name that is rather long for a column of a table " * 2
AT = "2026-01-31T12:00:00.500000Z"

KEYS = {
    "data": [
        {
            "id": KEY,
            "name": LONG,
            "scopes": ["read", "sessions:write", "credits:write", "pricing:write"],
            "created_at": AT,
            "last_used_at": AT,
            "revoked_at": AT,
            "expires_at": None,
        }
    ],
    "next_cursor": None,
}
ENTRIES = {
    "data": [
        {
            "seq": 1234,
            "created_at": AT,
            "kind": "adjustment",
            "amount": "-123456789.123456",
            "balance_after": "123456789.123456",
            "session_id": SESSION,
            "grant_id": GRANT,
            "reason": LONG,
            "reference": None,
        }
    ],
    "next_cursor": None,
}
FINDINGS = [{"check": "entry-chain", "account_id": ACCOUNT, "row": ROW, "detail": LONG}]
REPLAYED = [
    {
        "session_id": SESSION,
        "version": 1,
        "engine_version": "1",
        "amount": "1",
        "identical": False,
        "differences": [{"what": "amount", "stored": "1", "replayed": "2"}],
    }
]


@pytest.mark.parametrize(
    ("show", "document", "ids"),
    [
        (show_keys, KEYS, [KEY]),
        (show_statement, ENTRIES, [SESSION, GRANT]),
        (show_findings, FINDINGS, [ACCOUNT, ROW]),
        (show_replay, REPLAYED, [SESSION]),
    ],
)
@pytest.mark.parametrize("width", [60, 80, 200])
def test_an_id_stands_in_one_line_to_be_copied(
    show: Callable[[Console, Any], None], document: Any, ids: list[str], width: int
) -> None:
    stream = StringIO()
    show(Console(file=stream, width=width), document)
    lines = stream.getvalue().splitlines()
    for told in ids:
        assert [line for line in lines if told in line], (told, stream.getvalue())
    assert "…" not in stream.getvalue()
