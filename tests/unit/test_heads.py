"""Files of heads: what was written is read again; a file that is not exactly as it was written is refused."""

import hashlib
import hmac
import json
from io import BytesIO
from uuid import UUID

import pytest

from app.core.units import Instant, MicroCredits
from app.ledger.findings import MAX_FINDINGS, Finding, Findings
from app.ledger.heads import MAX_LINE, BadHeads, Head, HeadsFile, HeadsWriter
from app.ledger.keys import LedgerKeys

KEYS = LedgerKeys([b"first-key", b"second-key"])
NOW = Instant(1_772_366_400_000_000)
HEADS = [
    Head(UUID(int=1), 3, bytes(range(32)), MicroCredits(12_500_000)),
    Head(UUID(int=2), 0, None, MicroCredits(0)),
    Head(UUID(int=3), 1 << 40, b"\xff" * 32, MicroCredits(-9 * 10**18), 2, bytes(32)),
]


def written(heads: list[Head] = HEADS, keys: LedgerKeys = KEYS) -> bytes:
    content = BytesIO()
    writer = HeadsWriter(keys, NOW, len(heads), content.write)
    for head in heads:
        writer.add(head)
    export = writer.end()
    assert (export.accounts, export.digest) == (len(heads), hashlib.sha256(content.getvalue()).digest())
    return content.getvalue()


def opened(content: bytes, keys: LedgerKeys = KEYS) -> HeadsFile:
    return HeadsFile("heads", BytesIO(content), keys)


@pytest.mark.parametrize("heads", [HEADS, HEADS[:1], []])
def test_what_was_written_is_read_again_as_often_as_asked_for(heads: list[Head]) -> None:
    file = opened(written(heads))
    assert (file.exported_at, file.accounts) == ("2026-03-01T12:00:00.000000Z", len(heads))
    assert list(file.heads()) == list(file.heads()) == heads


def test_the_form_is_what_it_always_was() -> None:
    lines = written().splitlines(keepends=True)
    assert lines[0] == (
        b'{"format":"talktime-heads","version":1,"exported_at":"2026-03-01T12:00:00.000000Z",'
        b'"key_id":"' + KEYS.current_id.encode() + b'","accounts":3}\n'
    )
    assert lines[2] == (
        b'{"account":"00000000-0000-0000-0000-000000000002","seq":0,"mac":null,"balance":"0",'
        b'"limit_changes":0,"limit_mac":null}\n'
    )
    signed = hmac.new(b"first-key", b"talktime/exported-heads\x00" + b"".join(lines[:-1]), hashlib.sha256)
    assert json.loads(lines[-1]) == {"hmac": signed.hexdigest()}


def test_a_file_is_read_with_the_key_that_signed_it() -> None:
    later = LedgerKeys([b"third-key", b"first-key"])
    assert list(opened(written(), later).heads()) == HEADS
    with pytest.raises(BadHeads, match="not among TALKTIME_LEDGER_KEYS"):
        opened(written(), LedgerKeys([b"third-key"]))


def test_every_truncation_is_refused() -> None:
    content = written()
    for length in range(len(content)):
        with pytest.raises(BadHeads):
            opened(content[:length])


def test_every_flipped_bit_is_refused() -> None:
    content = written()
    for place in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(BadHeads):
            opened(bytes(flipped))


def test_lines_that_are_added_removed_or_swapped_are_refused() -> None:
    lines = written().splitlines(keepends=True)
    for changed in (
        [*lines, lines[-1]],
        [*lines, b"\n"],
        [lines[0], lines[1], *lines],
        [lines[0], *lines[2:]],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines[:-1], written([]).splitlines(keepends=True)[-1]],
    ):
        with pytest.raises(BadHeads):
            opened(b"".join(changed))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"null\n",
        b"[]\n",
        b"\xff\n",
        b"[" * MAX_LINE,
        b"{" + b" " * MAX_LINE + b"}\n",
        b'{"format":"talktime-heads","version":2}\n',
        b'{"format":"talktime-heads","version":1,"key_id":[]}\n',
        written().replace(b'"version":1', b'"version":true'),
    ],
)
def test_what_is_no_file_of_heads_is_refused(content: bytes) -> None:
    with pytest.raises(BadHeads, match=r"^heads: "):
        opened(content)


def test_each_check_reports_so_many_findings_and_says_that_there_are_more() -> None:
    found = Findings()
    for n in range(MAX_FINDINGS):
        found.add(Finding("one", UUID(int=n), "row", "wrong"))
    assert found.cut_off == []
    for n in range(3):
        found.add(Finding("one", UUID(int=n), "row", "wrong"))
        found.add(Finding("two", UUID(int=n), "row", "wrong"))
    assert found.cut_off == ["one"]
    assert [item.check for item in found.all] == ["one"] * MAX_FINDINGS + ["two"] * 3
