"""The README from its first command to its last, and the client's guide, as somebody who types them sees them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.storm.processes import environment, free_ports

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
SETTLED_WITHIN_S = 60.0


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


def replaced(text: str, values: dict[str, str]) -> str:
    """Each name by its value, all at once."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], text)


@dataclass
class Terminal:
    """Types blocks of commands. What they export, and variables that they set, later ones have too."""

    folder: Path
    ports: dict[str, str]
    known: list[str] = field(default_factory=list)

    def typed(self, block: str, **values: str) -> str:
        """The block as it is typed here: other ports, the checkout's own commands, what an ellipsis stands for."""
        block = replaced(block, {**self.ports, **values})
        block = block.replace(". .venv/bin/activate", f". {ROOT}/.venv/bin/activate")
        return "\n".join(line for line in block.splitlines() if line != "make setup")

    def run(self, block: str, **values: str) -> str:
        """What the commands print. None of them may fail, nor be answered by a problem."""
        text = self.typed(block, **values)
        script = "\n".join(["set -euo pipefail", *self.known, text])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=environment({}),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        assert "/problems/" not in done.stdout, f"{text}\n{done.stdout}"
        self.known += [line for line in text.splitlines() if re.match(r"export |[A-Z]+=\S+\s*(#|$)|\. ", line)]
        return done.stdout

    @contextmanager
    def left_running(self, block: str, log: Path, **values: str) -> Iterator[None]:
        """A block whose last command goes on until it is stopped, as by Ctrl-C."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"set -euo pipefail\n{self.typed(block, **values)}"],
                cwd=self.folder,
                env=environment({"PYTHONUNBUFFERED": "1"}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def until(log: Path, pattern: str) -> str:
    """What fits in the log, as soon as it does."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = re.search(pattern, log.read_text(encoding="utf-8")) if log.exists() else None
        if found is not None:
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {log.read_text(encoding='utf-8')[-2000:]}")


def documents(printed: str) -> list[Any]:
    """The JSON documents that several calls printed one behind the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (begin := printed.find("{", at)) != -1:
        document, at = decoder.raw_decode(printed, begin)
        found.append(document)
    return found


def python(folder: Path, ports: dict[str, str], sources: Sequence[str], checks: str = "") -> str:
    """Run these blocks as one program; warnings are errors."""
    text = replaced("\n\n".join(sources), ports)
    program = folder / "example.py"
    program.write_text(f"{text}\n\n{checks}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=ROOT,
        env=environment({"PYTHONPATH": str(ROOT)}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


SIGNED = """
import json
from datetime import UTC, datetime
from standardwebhooks import Webhook

event = {"id": "evt_1", "type": "session.settled", "timestamp": "2026-01-31T12:00:00.000000Z", "user_id": "ada",
         "sequence": 1, "data": {"session_id": "ses_1", "why": "settled", "charged": "21.571", "leakage": "0"}}
body, now = json.dumps(event).encode(), datetime.now(UTC)
signature = Webhook(SECRETS[0]).sign("evt_1", now, body.decode())
headers = {"webhook-id": "evt_1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
assert receive(body, headers) == 204
assert receive(body + b" ", headers) == 400
"""


def test_the_readme_and_the_clients_guide_from_beginning_to_end(data_dir: Path) -> None:
    provider, service = map(str, free_ports(2))
    ports = {"8900": provider, "localhost:8000": f"127.0.0.1:{service}", "8000": service}
    shell = [block for block in blocks(README, "sh") if not block.startswith("make ") or "talktime" in block]
    simulator, serve, keys, grant, start, guide, charge, verify, replay, export, preview, simulate = shell
    (evidence,) = [block for block in blocks(README, "json") if '"snapshots"' in block]
    (data_dir / "guide.json").write_text(evidence, encoding="utf-8")
    (terms,) = re.findall(r'`"rate_card": (\{.+?\}\})`', " ".join(README.split()))
    (data_dir / "draft.json").write_text(terms, encoding="utf-8")
    first, second = data_dir / "first.log", data_dir / "second.log"
    terminal = Terminal(data_dir, ports)
    with terminal.left_running(simulator, first):
        clock = until(first, r"clock +(\S+)\n")
        written = re.findall(r"20@\d+@\d+", serve)[0]
        with terminal.left_running(
            serve, second, **{written: clock, "talktime serve": f"talktime serve --port {service}"}
        ):
            ready = until_ready(terminal, second)
            assert ready == '{"status":"ready","faults":[]}'
            create, told, revoke = keys.splitlines()
            terminal.known.append(terminal.typed(". .venv/bin/activate"))
            terminal.run(create)
            key_id = re.findall(r"key_[0-9a-z]{26}", terminal.run(f"{told} --json"))[0]
            terminal.run(revoke, **{"key_…": key_id})
            granted, balance = documents(terminal.run(grant))
            assert (granted["amount"], balance["available"], balance["talk_time_s"]) == ("100", "100", 100)
            (started,) = documents(terminal.run(start))
            assert started["session"]["state"] == "live"
            drop_in = terminal.run(guide)
            assert "200 OK" in drop_in
            assert set(documents(drop_in)[-1]) == {"url", "token"}
            walk_in_python(data_dir, ports)
            session = {"ses_…": started["session"]["id"]}
            until_settled(terminal, charge, session)
            printed = terminal.run(charge, **session)
            shown, explained, statement = documents(printed)[:3]
            assert (shown["charged"], explained["charged"]) == ("21.571", "21.571")
            assert [entry["kind"] for entry in statement["data"]] == ["charge", "grant"]
            assert "21.571 credits" in printed
            terminal.run("talktime explain $SESSION --svg talk.svg")
            assert (data_dir / "talk.svg").read_text(encoding="utf-8").startswith("<svg")
            (left,) = documents(terminal.run('curl -s $API/v1/users/ada/balance -H "$KEY"'))
            assert left["balance"] == "78.429"
            assert "Everything that was checked adds up." in terminal.run(verify)
            terminal.run(replay)
            terminal.run(export)
            assert "16.571 credits" in terminal.run("talktime rate guide.json")
            assert documents(terminal.run(preview))[0]["amount"] == "16.571"
            terminal.run(simulate)


def walk_in_python(folder: Path, ports: dict[str, str]) -> None:
    """The README's program, and then the guide's pieces as one program."""
    (program,) = blocks(README, "python")
    printed = python(folder, ports, [program])
    assert re.search(r"^ses_\w+ ConnectionDetails\(url='\S+'\)$", printed, re.MULTILINE), printed
    assert re.search(r" grant 100$", printed, re.MULTILINE), printed
    printed = python(folder, ports, blocks(GUIDE, "python"), SIGNED)
    assert "credits are missing; affordable: 0 s" in printed
    assert "ada talked for 21.571 credits" in printed


def until_ready(terminal: Terminal, log: Path) -> str:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            return terminal.run("curl -sf localhost:8000/readyz")
        except AssertionError:
            time.sleep(0.2)
    raise AssertionError(log.read_text(encoding="utf-8")[-3000:])


def until_settled(terminal: Terminal, charge: str, session: dict[str, str]) -> None:
    end = time.monotonic() + SETTLED_WITHIN_S
    asked = "\n".join(charge.splitlines()[:2])
    while documents(terminal.run(asked, **session))[0]["state"] != "settled":
        assert time.monotonic() < end, "not settled in time"
        time.sleep(0.5)


def test_every_target_that_the_readme_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^make ([a-z]+)", "\n".join(blocks(README, "sh")), re.MULTILINE))
    assert len(named) > 10
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
