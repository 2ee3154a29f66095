"""Signed heads: where the chain of each account stood, in a file that lies outside the database.

JSON, one object a line: a header, one line an account in the order of their ids, and last an HMAC-SHA-256 over every
byte before it. Whoever rewinds an account, or removes it, contradicts every file that was exported before.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, Final
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Uuid, column, func, insert, select, true
from sqlalchemy.sql.expression import cast

from app.core.units import Instant, MicroCredits, format_credits, format_instant, millionths
from app.db.database import Transaction
from app.db.tables import accounts, entries, exported_heads, limit_changes
from app.ledger.findings import Finding, Findings, Progress
from app.ledger.keys import LedgerKeys

EXPORTED: Final = "exported-head"
FORMAT: Final = "talktime-heads"
VERSION: Final = 1
AT_ONCE: Final = 2_000
MAX_LINE: Final = 1_000
"""Bytes; no line of ours comes near it."""

_DOMAIN: Final = b"talktime/exported-heads\x00"


class BadHeads(Exception):
    """A file that cannot be relied on: no heads, cut off, changed, or signed with a key that is not ours."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where an account's chain stood; ``mac`` is null while there was no entry. Likewise the changes of its limit."""

    account_id: UUID
    seq: int
    mac: bytes | None
    balance: MicroCredits
    limit_changes: int = 0
    limit_mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """``digest``: SHA-256 of the whole file."""

    accounts: int
    digest: bytes


class _Signed:
    """Bytes on their way, with their HMAC so far."""

    def __init__(self, key: bytes) -> None:
        self._hmac = hmac.new(key, _DOMAIN, hashlib.sha256)

    def take(self, line: bytes) -> None:
        self._hmac.update(line)

    @property
    def last_line(self) -> bytes:
        return _line({"hmac": self._hmac.hexdigest()})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"


# Writing


class HeadsWriter:
    """Writes a file of the heads of ``total`` accounts, signed with our current key."""

    def __init__(self, keys: LedgerKeys, now: Instant, total: int, write: Callable[[bytes], object]) -> None:
        self._signed = _Signed(keys.current)
        self._digest = hashlib.sha256()
        self._total = total
        self._write = write
        header = {"format": FORMAT, "version": VERSION, "exported_at": format_instant(now)}
        self._put_signed({**header, "key_id": keys.current_id, "accounts": total})

    def add(self, head: Head) -> None:
        self._put_signed(
            {
                "account": str(head.account_id),
                "seq": head.seq,
                "mac": None if head.mac is None else head.mac.hex(),
                "balance": format_credits(head.balance),
                "limit_changes": head.limit_changes,
                "limit_mac": None if head.limit_mac is None else head.limit_mac.hex(),
            }
        )

    def end(self) -> Export:
        self._put(self._signed.last_line)
        return Export(self._total, self._digest.digest())

    def _put_signed(self, content: dict[str, Any]) -> None:
        line = _line(content)
        self._signed.take(line)
        self._put(line)

    def _put(self, line: bytes) -> None:
        self._digest.update(line)
        self._write(line)


async def export_heads(
    transaction: Transaction, keys: LedgerKeys, now: Instant, write: Callable[[bytes], object]
) -> Export:
    """Write the heads of all accounts as they are stored.

    ``transaction`` must see one state throughout, as :meth:`app.db.database.Database.reading` gives it.
    """
    total = (await transaction.execute(select(func.count()).select_from(accounts))).scalar_one()
    writer = HeadsWriter(keys, now, total, write)
    columns = accounts.c.account_id, accounts.c.seq, accounts.c.head_mac, accounts.c.balance
    last = (
        select(limit_changes.c.n, limit_changes.c.mac)
        .where(limit_changes.c.account_id == accounts.c.account_id)
        .order_by(limit_changes.c.n.desc())
        .limit(1)
        .lateral()
    )
    page = (
        select(*columns, last.c.n, last.c.mac)
        .select_from(accounts.outerjoin(last, true()))
        .order_by(accounts.c.account_id)
        .limit(AT_ONCE)
    )
    rows = (await transaction.execute(page)).all()
    while rows:
        for row in rows:
            head = row.account_id, row.seq, row.head_mac, MicroCredits(row.balance), row.n or 0, row.mac
            writer.add(Head(*head))
        rows = (await transaction.execute(page.where(accounts.c.account_id > rows[-1].account_id))).all()
    return writer.end()


async def record_export(transaction: Transaction, export_id: UUID, export: Export, now: Instant) -> None:
    """Note that heads were exported."""
    values = {"id": export_id, "accounts": export.accounts, "digest": export.digest, "created_at": now}
    await transaction.execute(insert(exported_heads).values(values))


# Reading


class HeadsFile:
    """A file of heads whose signature fits; read anew, line by line, whenever its heads are asked for."""

    def __init__(self, name: str, file: BinaryIO, keys: LedgerKeys) -> None:
        """Raises :class:`BadHeads` unless ``file`` (seekable) is whole and signed by one of ``keys``."""
        self.name = name
        self._file = file
        self.exported_at, self.accounts = self._check(keys)

    def heads(self) -> Iterator[Head]:
        lines = self._lines()
        next(lines)
        for _ in range(self.accounts):
            yield _head(self._object(next(lines)))

    def _check(self, keys: LedgerKeys) -> tuple[str, int]:
        lines = self._lines()
        first = next(lines, b"")
        header = self._object(first)
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise BadHeads(f"{self.name}: not heads that talktime exported, or of a later version")
        key_id, total = header.get("key_id"), header.get("accounts")
        key = keys.key(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise BadHeads(f"{self.name}: signed with a key that is not among TALKTIME_LEDGER_KEYS")
        signed = _Signed(key)
        signed.take(first)
        last = b""
        count = -1
        for line in lines:
            if count >= 0:
                signed.take(last)
            count += 1
            last = line
        # Until the signature is known to fit, nothing else of the file is believed.
        if not hmac.compare_digest(last, signed.last_line) or count != total:
            raise BadHeads(f"{self.name}: cut off or changed: its signature does not fit")
        return str(header.get("exported_at")), count

    def _lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        while line := self._file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise BadHeads(f"{self.name}: not heads that talktime exported")
            yield line

    def _object(self, line: bytes) -> dict[str, Any]:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise BadHeads(f"{self.name}: not heads that talktime exported")
        return content


def _head(content: dict[str, Any]) -> Head:
    tag, limit = content["mac"], content["limit_mac"]
    return Head(
        UUID(content["account"]),
        int(content["seq"]),
        None if tag is None else bytes.fromhex(tag),
        MicroCredits(millionths(content["balance"])),  # may be more than any one amount
        int(content["limit_changes"]),
        None if limit is None else bytes.fromhex(limit),
    )


# Comparing


async def check_heads(transaction: Transaction, exported: HeadsFile, found: Findings, progress: Progress) -> None:
    """Every account that was exported still has, where its chain stood, the entry that stood there."""
    done = 0
    heads = exported.heads()
    while some := list(islice(heads, AT_ONCE)):
        for head, fault in await _contradicted(transaction, some):
            row = f"entry {head.seq}" if head.seq else "account"
            detail = f"{fault}, other than in {exported.name}, exported at {exported.exported_at}"
            found.add(Finding(EXPORTED, head.account_id, row, detail))
        done += len(some)
        progress("exported heads", done, exported.accounts)


async def _contradicted(transaction: Transaction, heads: Sequence[Head]) -> list[tuple[Head, str]]:
    ids = cast([head.account_id for head in heads], ARRAY(Uuid))
    seqs = cast([head.seq for head in heads], ARRAY(BigInteger))
    limits = cast([head.limit_changes for head in heads], ARRAY(BigInteger))
    columns = column("account_id", Uuid), column("seq", BigInteger), column("n", BigInteger)
    named = func.unnest(ids, seqs, limits).table_valued(*columns, name="named").render_derived()
    at_limit = (limit_changes.c.account_id == named.c.account_id) & (limit_changes.c.n == named.c.n)
    at_head = (entries.c.account_id == named.c.account_id) & (entries.c.seq == named.c.seq)
    statement = (
        select(
            named.c.account_id,
            accounts.c.user_id,
            entries.c.mac,
            entries.c.balance_after,
            limit_changes.c.mac.label("limit_mac"),
        )
        .select_from(named)
        .outerjoin(accounts, accounts.c.account_id == named.c.account_id)
        .outerjoin(entries, at_head)
        .outerjoin(limit_changes, at_limit)
    )
    rows = {row.account_id: row for row in await transaction.execute(statement)}
    wrong: list[tuple[Head, str]] = []
    for head in heads:
        row = rows[head.account_id]
        if row.user_id is None:
            wrong.append((head, "its account is not there"))
        elif head.seq and row.mac is None:
            wrong.append((head, "it is not there"))
        elif head.seq and (row.mac, row.balance_after) != (head.mac, head.balance):
            wrong.append((head, "its MAC or balance is another"))
        elif row.limit_mac != head.limit_mac:
            wrong.append((head, f"limit change {head.limit_changes} is gone or another"))
    return wrong
