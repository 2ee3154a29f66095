"""Checking a file of evidence (:mod:`app.settlement.evidence_file`) by itself: no database, no network."""

import hashlib
import hmac
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from app.core.alignment import Pull, latest
from app.core.charge import ENGINE_VERSION, Evidence
from app.core.engines import UnknownEngine, engine_of
from app.core.ids import Kind, account_id_of, parse_public_id
from app.core.lossless_json import InvalidJson, loads
from app.core.timeline import normalise
from app.core.units import parse_credits
from app.documents import decode, validate
from app.errors import Problem
from app.ledger.keys import LedgerKeys
from app.pricing.documents import PreviewDocument, read_rate_card
from app.pricing.explanation import explain
from app.settlement.evidence import inputs_text
from app.settlement.evidence_file import SIGNATURE, SUMS, mac_of_sums

MOST_BYTES: Final = 256 << 20
"""Of all that is in a file: more is no evidence of one session."""

_UNREADABLE: Final = (KeyError, ValueError, TypeError, LookupError, zipfile.BadZipFile, Problem, InvalidJson)


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at; ``fault`` null: it holds; ``left_out``: why it could not be looked at."""

    what: str
    fault: str | None = None
    left_out: str | None = None


def check_evidence(packed: bytes, keys: LedgerKeys | None) -> list[Checked]:
    """What holds of the file and what does not. ``keys`` null: the MACs are left out."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
                return [Checked("the file", f"it would unpack to more than {MOST_BYTES} bytes")]
            if len(set(archive.namelist())) != len(archive.infolist()):
                return [Checked("the file", "two files in it have one name: whoever unpacks it may see the other one")]
            files = {info.filename: archive.read(info) for info in archive.infolist()}
        return list(_checks(files, keys))
    except _UNREADABLE as error:
        return [Checked("the file", f"it is none that Talktime made, or not whole: {error}")]


def _checks(files: dict[str, bytes], keys: LedgerKeys | None) -> Iterator[Checked]:
    yield Checked("the files fit their sums", _sums_fault(files))
    yield _sums_signed(files, keys)
    charge: dict[str, Any] = _json(files, "charge.json")
    entries: list[dict[str, Any]] = _json(files, "entries.json")
    yield _rated(files, charge)
    yield _posted(files, charge, entries)
    yield _of_this_session(_json(files, "session.json"), entries)
    yield from (_signed(entry, keys) for entry in entries)


def _sums_fault(files: dict[str, bytes]) -> str | None:
    told: dict[str, str] = {}
    for line in files[SUMS].decode().splitlines():
        digest, _, name = line.partition("  ")
        told[name] = digest
    others = sorted((set(files) - {SUMS, SIGNATURE}) ^ set(told))
    if others:
        return f"{', '.join(others[:5])}: there or not, against what {SUMS} says"
    changed = sorted(name for name, digest in told.items() if hashlib.sha256(files[name]).hexdigest() != digest)
    return f"changed: {', '.join(changed[:5])}" if changed else None


def _sums_signed(files: dict[str, bytes], keys: LedgerKeys | None) -> Checked:
    """Sums can be made anew by whoever changes a file; the MAC over them cannot."""
    what = "the sums bear the MAC of the ledger's key"
    signature: dict[str, Any] = _json(files, SIGNATURE)
    if keys is None:
        return Checked(what, left_out="TALKTIME_LEDGER_KEYS is not set")
    key = keys.key(signature["key_id"])
    if key is None:
        return Checked(what, f"they were signed with the key {signature['key_id']}, which is not among ours")
    fits = hmac.compare_digest(mac_of_sums(files[SUMS], key), signature["mac"])
    return Checked(what, None if fits else "it does not fit: a file, or what is told of one, was changed")


def _rated(files: dict[str, bytes], charge: dict[str, Any]) -> Checked:
    what = "the charge comes out of the inputs"
    if charge["accepted_snapshot"] is not None:
        return Checked(what, left_out="a person has accepted that the evidence contradicts itself")
    asked = validate(PreviewDocument, decode(files["rate.json"]))
    evidence = _evidence(asked)
    try:
        rated = engine_of(charge["engine_version"])(evidence)
    except UnknownEngine:
        return Checked(what, left_out=f"this version has no engine {charge['engine_version']}, only {ENGINE_VERSION}")
    values = asked.snapshots[latest(evidence.pulls)].values if charge["snapshot"] is not None else None
    text = inputs_text(evidence, values, charge["engine_version"])
    if text.encode() != files["inputs.json"]:
        return Checked(what, "rate.json and inputs.json are not the same inputs")
    again = explain(rated, evidence.card, charge["engine_version"])
    for name in ("amount", "beyond_authorization", "lines"):
        if _plain(again[name]) != _plain(charge[name]):
            return Checked(what, f"{name} comes out as {again[name]}, and not as {charge[name]}")
    return Checked(what)


def _evidence(asked: PreviewDocument) -> Evidence:
    timelines = [normalise(snapshot.values) for snapshot in asked.snapshots]
    pulls = [
        Pull(snapshot.requested_at, snapshot.received_at, timeline.end, timeline.speech)
        for snapshot, timeline in zip(asked.snapshots, timelines, strict=True)
    ]
    return Evidence(
        requested_at=asked.requested_at,
        time_limit=asked.time_limit_s,
        heartbeats=asked.heartbeats,
        pulls=pulls,
        timeline=timelines[latest(pulls)],
        card=read_rate_card(asked.rate_card, "/rate_card"),
        authorized=asked.authorized,
        interim=asked.interim,
    )


def _posted(files: dict[str, bytes], charge: dict[str, Any], entries: list[dict[str, Any]]) -> Checked:
    what = "the ledger was written on these inputs"
    if not charge["final"] or charge["entry_id"] is None:
        return Checked(what, left_out="nothing was posted for it")
    digest = hashlib.sha256(files["inputs.json"]).hexdigest()
    signed: list[dict[str, Any]] = [_plain(loads(entry["signed"])) for entry in entries]
    fits = any(text["charge"] == digest for text in signed)
    return Checked(what, None if fits else "no entry names the digest of these inputs")


def _of_this_session(session: dict[str, Any], entries: list[dict[str, Any]]) -> Checked:
    what = "the entries are of this user and session"
    if not entries:
        return Checked(what, left_out="nothing was posted for it")
    thing = parse_public_id(Kind.SESSION, session["id"])
    account_id = account_id_of(session["user_id"])
    signed: list[dict[str, Any]] = [_plain(loads(entry["signed"])) for entry in entries]
    if any(text["account"] != account_id.hex for text in signed):
        return Checked(what, f"none of user {session['user_id']!r} is among them, or another's is")
    if thing is None or any(text["session"] != thing.id.hex for text in signed):
        return Checked(what, "one was signed for another session")
    return Checked(what)


def _signed(entry: dict[str, Any], keys: LedgerKeys | None) -> Checked:
    what = f"entry {entry['seq']} bears the MAC of the ledger"
    text: dict[str, Any] = _plain(loads(entry["signed"]))
    if text["seq"] != entry["seq"] or int(text["amount"]) != parse_credits(entry["amount"]):
        return Checked(what, "what is told of it is not what was signed")
    if keys is None:
        return Checked(what, left_out="TALKTIME_LEDGER_KEYS is not set")
    key = keys.key(entry["key_id"])
    if key is None:
        return Checked(what, f"it was signed with the key {entry['key_id']}, which is not among ours")
    tag = hmac.new(key, entry["signed"].encode("ascii"), hashlib.sha256).hexdigest()
    return Checked(what, None if hmac.compare_digest(tag, entry["mac"]) else "its MAC does not fit")


def _json(files: dict[str, bytes], name: str) -> Any:
    return _plain(loads(files[name]))


def _plain(value: Any) -> Any:
    """A document with its numbers as texts, however it came, so that two of them can be compared."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value if value is None or isinstance(value, bool) else str(value)
    return f"{value:f}" if hasattr(value, "is_finite") else str(value)
