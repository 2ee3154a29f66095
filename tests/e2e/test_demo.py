"""The demonstration as a newcomer runs it: real processes, a real database, and every charge as scripted."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from app.demo.script import ACTS

TALKTIME = (sys.executable, "-m", "app.cli")


def run(*arguments: str, data_dir: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TALKTIME_", "PYTHONDONT"))}
    return subprocess.run(
        [*TALKTIME, *arguments],
        env=clean | {"TALKTIME_DATA_DIR": str(data_dir), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_every_charge_comes_out_as_scripted_and_can_be_explained_afterwards(data_dir: Path) -> None:
    shown = run("demo", "--once", data_dir=data_dir)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for act in ACTS:
        assert act.title in shown.stdout
        assert act.balance in shown.stdout
    for address in ("Talktime    http://", "Provider    http://", "Admin key   demo_"):
        assert address in shown.stdout

    found = re.search(r" explain --data-dir (\S+) (ses_\w+)", shown.stdout)
    assert found is not None
    assert " verify --data-dir " in shown.stdout
    as_json = run("explain", "--json", found.group(2), data_dir=Path(found.group(1)))
    assert as_json.returncode == 0, as_json.stderr
    document = json.loads(as_json.stdout)
    assert document["amount"] == ACTS[0].charge
    picture = data_dir / "talk.svg"
    drawn = run("explain", "--svg", str(picture), found.group(2), data_dir=Path(found.group(1)))
    assert (drawn.returncode, drawn.stdout) == (0, ""), drawn.stderr
    assert f"{ACTS[0].charge} credits charged" in picture.read_text()
    shown_as_well = run("explain", "--svg", "-", found.group(2), data_dir=Path(found.group(1)))
    assert shown_as_well.stdout == picture.read_text()
    nowhere = run("explain", "--svg", str(data_dir / "no" / "x.svg"), found.group(2), data_dir=Path(found.group(1)))
    assert (nowhere.returncode, "No such file or directory" in nowhere.stderr) == (2, True)
    both = run("explain", "--svg", "-", "--json", found.group(2), data_dir=Path(found.group(1)))
    assert (both.returncode, "not both" in both.stderr) == (2, True)
    for_people = run("explain", found.group(2), data_dir=Path(found.group(1)))
    assert for_people.returncode == 0, for_people.stderr
    for word in (f"{ACTS[0].charge} credits", "silence_cap", "after_last_proof", "Second by second"):
        assert word in for_people.stdout
