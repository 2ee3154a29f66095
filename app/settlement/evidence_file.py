"""All that a session's charge rests on, in one file for a dispute: to be read, and checked, without our database.

Each thing in it is held by another: the MAC of the session's entry covers the digest of the charge's inputs, the digest
is that of ``inputs.json``, the inputs are those of ``rate.json``, and ``talktime rate`` makes the charge of them again.
What tells of it besides, the picture and the session's states, is held by a MAC over the sums of all files, made
with it. :mod:`app.settlement.evidence_check` goes that way.
"""

import hashlib
import hmac
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row, select

from app.core.chain import signed_text
from app.core.ids import Kind, public_id
from app.core.lossless_json import dumps
from app.core.units import Instant, Micros, datetime_of, format_credits, format_instant, seconds
from app.db.database import Transaction
from app.db.tables import entries
from app.http.answers import encode
from app.ledger.keys import LedgerKeys
from app.ledger.signed import signed_entries
from app.pictures import draw
from app.pricing.documents import write_rate_card
from app.sessions.documents import session_with_steps
from app.settlement.evidence import stored_inputs
from app.settlement.explained import Explained, charge_document, picture_of
from app.settlement.pull_routes import pulls_page
from app.timelines.raw import load_body
from app.timelines.snapshots import load_snapshots

SUMS: Final = "SHA256SUMS"
SIGNATURE: Final = "SHA256SUMS.mac"
_SIGNED_AS: Final = b"talktime/evidence\x00"
"""Before the sums in what is signed: the MAC of an entry of the ledger never fits here, nor one of these there."""

MOST_PULLS: Final = 500
"""Answers of the provider's to so many pulls; the rest is at ``GET /v1/sessions/{session_id}/pulls``."""

README: Final = """\
Evidence for the session {session}
made {now}

picture.svg    the session on one time axis; opens in any browser
charge.json    what it costs and why, line by line
session.json   the session with every state that it was in, when and why
rate.json      the inputs of the charge: heartbeats as they arrived, timelines as they were pulled, the rate card
inputs.json    the same inputs in the one form of which the ledger keeps the SHA-256
entries.json   the entries of the ledger that belong to it, with the texts that their MACs cover
pulls.json     what the provider answered each time we asked for the timeline
bodies/        these answers, byte for byte, each named by its SHA-256
SHA256SUMS     of all of these files
SHA256SUMS.mac the MAC over SHA256SUMS, by the key of the ledger that was in use when the file was made

How to verify it, without a network and without our database:

1. No file was damaged.
       sha256sum -c SHA256SUMS
2. None was changed by somebody who made its sum anew: `mac` in SHA256SUMS.mac is HMAC-SHA-256 over the text
   "talktime/evidence", a zero byte and SHA256SUMS, under the ledger's key. Only who has the key can see this.
3. The charge comes out of these inputs: `amount` and `lines` are those of charge.json.
       talktime rate rate.json
{accepted}4. The ledger was written on these inputs: the SHA-256 of inputs.json is `charge` in the text of an entry.
       sha256sum inputs.json
5. The entry was not written by anybody else: its `mac` is HMAC-SHA-256 over `signed` under the ledger's key, and
   `previous` in that text is the MAC of the entry before it. Only who has the key can see this.

       talktime check-evidence FILE

does all of it, the MACs if TALKTIME_LEDGER_KEYS is set, and sees that the entries are of the user and the session in
session.json. Without the key only the charge and its inputs hold each other; the rest is as told by whoever gave you
the file.
"""
_ACCEPTED: Final = """\
   Not so here: a person has accepted that the evidence contradicts itself. `why` in session.json says what he decided.
"""


async def evidence_file(
    transaction: Transaction, explained: Explained, *, now: Instant, rerate_window: Micros, keys: LedgerKeys
) -> bytes:
    """The file, a ZIP archive, signed by the current one of ``keys``.

    ``rerate_window``: as for :func:`~app.settlement.explained.charge_document`.
    """
    session = explained.session
    pulls = await pulls_page(transaction, session.key, MOST_PULLS, None)
    documents: dict[str, bytes] = {
        "README.txt": _readme(explained, now).encode(),
        "picture.svg": draw(picture_of(explained)).encode(),
        "charge.json": encode(await charge_document(transaction, explained, now=now, rerate_window=rerate_window)),
        "session.json": encode(await session_with_steps(transaction, session)),
        "rate.json": encode(await _rate_document(transaction, explained)),
        "inputs.json": stored_inputs(explained.stored).encode(),
        "entries.json": encode(await _entry_documents(transaction, explained)),
        "pulls.json": encode(pulls),
    }
    for digest in sorted({page["sha256"] for pull in pulls["data"] for page in pull["pages"] if page["kept"]}):
        body = await load_body(transaction, session.key, bytes.fromhex(digest))
        if body is not None:
            documents[f"bodies/{digest}.bin"] = body
    return _packed(documents, keys, now)


def _readme(explained: Explained, now: Instant) -> str:
    accepted = _ACCEPTED if explained.stored.accepted_snapshot is not None else ""
    return README.format(session=explained.session.public_id, now=format_instant(now), accepted=accepted)


async def _rate_document(transaction: Transaction, explained: Explained) -> dict[str, Any]:
    """What ``talktime rate`` takes: the inputs of the charge that is shown."""
    evidence, stored = explained.stored.evidence, explained.stored
    last = stored.last_n
    found = [one for one in await load_snapshots(transaction, explained.session.key) if one.n <= last]
    pulled: Sequence[Mapping[str, Any]] = [
        {
            "requested_at": format_instant(one.pull.requested_at),
            "received_at": format_instant(one.pull.received_at),
            "values": msgspec.Raw(dumps(list(one.values)).encode()),
        }
        for one in found
    ]
    asked = format_instant(evidence.requested_at)
    return {
        "requested_at": asked,
        **({} if evidence.time_limit is None else {"time_limit_s": seconds(evidence.time_limit)}),
        "heartbeats": [format_instant(heartbeat) for heartbeat in evidence.heartbeats],
        # Without a pull the timeline is as good as empty.
        "snapshots": pulled or [{"requested_at": asked, "received_at": asked, "values": []}],
        "rate_card": write_rate_card(evidence.card),
        **({} if evidence.authorized is None else {"authorized": format_credits(evidence.authorized)}),
        "interim": evidence.interim,
    }


async def _entry_documents(transaction: Transaction, explained: Explained) -> list[dict[str, Any]]:
    session = explained.session
    own = (
        select(entries)
        .where(entries.c.account_id == session.account_id, entries.c.session_id == session.id)
        .order_by(entries.c.seq)
    )
    rows = (await transaction.execute(own)).all()
    before = await _macs_before(transaction, rows)
    return [
        {
            "id": public_id(Kind.ENTRY, entry.account_id, entry.id),
            "seq": entry.seq,
            "kind": entry.kind,
            "amount": format_credits(entry.amount),
            "created_at": format_instant(entry.created_at),
            "key_id": entry.key_id,
            "signed": signed_text(entry, before.get(entry.seq - 1)),
            "mac": tag.hex(),
        }
        for entry, tag in await signed_entries(transaction, rows)
    ]


async def _macs_before(transaction: Transaction, rows: Sequence[Row[Any]]) -> dict[int, bytes]:
    if not rows:
        return {}
    statement = select(entries.c.seq, entries.c.mac).where(
        entries.c.account_id == rows[0].account_id, entries.c.seq.in_([row.seq - 1 for row in rows])
    )
    return {row.seq: row.mac for row in await transaction.execute(statement)}


def mac_of_sums(sums: bytes, key: bytes) -> str:
    """The MAC that holds all files of a file of evidence, in hexadecimal. ``sums``: the bytes of :data:`SUMS`."""
    return hmac.new(key, _SIGNED_AS + sums, hashlib.sha256).hexdigest()


def _packed(documents: Mapping[str, bytes], keys: LedgerKeys, now: Instant) -> bytes:
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in documents.items()).encode()
    signature = encode({"key_id": keys.current_id, "mac": mac_of_sums(sums, keys.current)})
    made = datetime_of(now).timetuple()[:6]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**documents, SUMS: sums, SIGNATURE: signature}.items():
            archive.writestr(zipfile.ZipInfo(name, made), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
