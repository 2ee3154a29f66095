"""A session's file of evidence: what is in it holds together, and what is changed in it shows."""

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.ledger.keys import LedgerKeys
from app.settlement.evidence_check import check_evidence
from tests.integration.test_sign_in import browser, sign_in
from tests.support.world import ADMIN_KEY, World

pytestmark = pytest.mark.anyio
KEYS = LedgerKeys([b"test-ledger-key-0123456789"])


async def settled(talktime: World) -> dict[str, object]:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user, time_limit_s=300)
    talktime.provider.say(session["provider_session_id"], ("silence", 2), ("user", "9.25"), ("agent", 26.5))
    await talktime.heartbeats_until(session, 60)
    return await talktime.settle(session)


async def evidence(talktime: World, session: dict[str, object]) -> bytes:
    async with browser(talktime) as client:
        await sign_in(client, key=ADMIN_KEY)
        response: httpx.Response = await client.get(f"/admin/sessions/{session['id']}/evidence.zip")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    return response.content


def changed(packed: bytes, name: str, change: Callable[[bytes], bytes], *, sums: bool = False) -> bytes:
    """The file with something changed; ``sums``: by somebody who also writes the sums anew."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    assert change(files[name]) != files[name]
    files[name] = change(files[name])
    if sums:
        rest = {other: content for other, content in files.items() if other != "SHA256SUMS"}
        rest.pop("SHA256SUMS.mac")
        lines = [f"{hashlib.sha256(content).hexdigest()}  {other}\n" for other, content in rest.items()]
        files["SHA256SUMS"] = "".join(lines).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for other, content in files.items():
            archive.writestr(other, content)
    return out.getvalue()


async def test_it_holds_as_it_was_made(talktime: World) -> None:
    packed = await evidence(talktime, await settled(talktime))
    found = check_evidence(packed, KEYS)
    assert [(one.fault, one.left_out) for one in found] == [(None, None)] * 6
    assert [one.left_out for one in check_evidence(packed, None)].count("TALKTIME_LEDGER_KEYS is not set") == 2
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        assert archive.read("picture.svg").startswith(b"<svg ")
        assert b"sha256sum -c SHA256SUMS" in archive.read("README.txt")
    assert sum(name.startswith("bodies/") for name in names) >= 1


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("rate.json", lambda content: content.replace(b"9.25", b"8.25"), "not the same inputs"),
        ("inputs.json", lambda c: c.replace(b'"time_limit":300', b'"time_limit":301'), "not the same inputs"),
        ("charge.json", lambda content: content.replace(b'"amount":"', b'"amount":"1', 1), "comes out as"),
        ("entries.json", lambda content: content.replace(b'"amount":"-', b'"amount":"-1', 1), "is not what was signed"),
        ("session.json", lambda c: c.replace(b'"user_id":"user-', b'"user_id":"mallory-'), "of user 'mallory-"),
        (
            "session.json",
            lambda c: re.sub(rb'"id":"ses_.{52}', b'"id":"ses_' + b"0" * 52, c, count=1),
            "another session",
        ),
        ("session.json", lambda c: c.replace(b'"persona":"', b'"persona":"x'), "a file, or what is told of one, was"),
        ("picture.svg", lambda c: c.replace(b"</text>", b"9</text>"), "a file, or what is told of one, was"),
        ("pulls.json", lambda c: b'{"data":[]}', "a file, or what is told of one, was"),
        ("README.txt", lambda c: c.replace(b"sha256sum", b"true"), "a file, or what is told of one, was"),
        ("SHA256SUMS.mac", lambda c: c.replace(b'"mac":"', b'"mac":"0'), "a file, or what is told of one, was"),
    ],
)
async def test_what_is_changed_shows_even_with_new_sums(
    talktime: World, name: str, change: Callable[[bytes], bytes], says: str
) -> None:
    packed = await evidence(talktime, await settled(talktime))
    plain = check_evidence(changed(packed, name, change), KEYS)
    assert plain[0].fault == (None if name == "SHA256SUMS.mac" else f"changed: {name}")
    clever = check_evidence(changed(packed, name, change, sums=True), KEYS)
    assert clever[0].fault is None
    assert says in " ".join(one.fault or "" for one in clever)


async def test_a_forged_entry_does_not_bear_the_mac(talktime: World) -> None:
    packed = await evidence(talktime, await settled(talktime))
    forged = changed(packed, "entries.json", lambda c: c.replace(b"settle:", b"settla:"), sums=True)
    assert "its MAC does not fit" in " ".join(one.fault or "" for one in check_evidence(forged, KEYS))
    other = LedgerKeys([b"another-ledger-key-987654"])
    assert "not among ours" in " ".join(one.fault or "" for one in check_evidence(packed, other))


async def test_a_live_session_has_its_evidence_too(talktime: World) -> None:
    user = talktime.user()
    await talktime.grant(user, "1000")
    session = await talktime.start(user, time_limit_s=300)
    packed = await evidence(talktime, session)
    assert [one.fault for one in check_evidence(packed, KEYS)] == [None] * 5
    talktime.provider.say(session["provider_session_id"], ("user", 9))
    await talktime.heartbeats_until(session, 60)
    await talktime.reconcile()
    assert [one.fault for one in check_evidence(await evidence(talktime, session), KEYS)] == [None] * 5


async def test_a_file_without_the_signature_or_with_two_of_a_name_is_not_taken(talktime: World) -> None:
    packed = await evidence(talktime, await settled(talktime))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    for names, says in (
        (set(files) - {"SHA256SUMS.mac"}, "not whole"),
        ([*files, "charge.json"], "two files in it have one name"),
    ):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings(action="ignore"):
            for name in names:
                archive.writestr(name, files[name])
        (last,) = [one for one in check_evidence(out.getvalue(), KEYS) if one.fault]
        assert says in str(last.fault)


@pytest.mark.parametrize("junk", [b"", b"PK\x03\x04", b"not a zip at all" * 10])
async def test_junk_is_no_evidence(junk: bytes) -> None:
    (one,) = check_evidence(junk, KEYS)
    assert one.fault is not None


async def test_the_command(talktime: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = await evidence(talktime, await settled(talktime))
    file = tmp_path / "evidence.zip"
    file.write_bytes(packed)
    monkeypatch.setenv("TALKTIME_LEDGER_KEYS", "test-ledger-key-0123456789")
    good = CliRunner().invoke(cli, ["check-evidence", str(file)], env={"COLUMNS": "200"})
    assert (good.exit_code, good.stdout.count("holds: ")) == (0, 6)
    file.write_bytes(changed(packed, "charge.json", lambda content: content + b" "))
    bad = CliRunner().invoke(cli, ["check-evidence", str(file)], env={"COLUMNS": "200"})
    assert bad.exit_code == 1
    assert "NOT so: the files fit their sums: changed: charge.json" in bad.stdout
