"""The demonstration as a newcomer runs it: real processes, a real database, weeks of history, and then the present."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from app.demo.script import ACTS

TALKTIME = (sys.executable, "-m", "app.cli")
PATIENCE_S = 480
WEEKS = (
    "44 sessions, 5 top-ups, 1 failed",
    "83 sessions, 13 top-ups",
    "91 sessions, 14 top-ups, 2 refused",
    "107 sessions, 11 top-ups",
    "117 sessions, 13 top-ups, 2 refused",
)
"""A seed gives the same history whenever and wherever it is made."""


def environment(data_dir: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TALKTIME_", "PYTHONDONT"))}
    return clean | {"TALKTIME_DATA_DIR": str(data_dir), "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}


def run(*arguments: str, data_dir: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TALKTIME, *arguments],
        env=environment(data_dir) | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def demonstrated(data_dir: Path) -> Iterator[str]:
    """Runs one until the block ends; what it has told by the time at which it goes on by itself."""
    output = data_dir / "told.txt"
    with output.open("w") as out:
        process = subprocess.Popen(
            [*TALKTIME, "demo"], env=environment(data_dir), stdout=out, stderr=subprocess.STDOUT, cwd=data_dir
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "Ctrl-C ends it" not in (told := output.read_text()):
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.2)
        yield told
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert (process.returncode, "Stopping." in output.read_text()) == (0, True), output.read_text()


class Api:
    """Calls with the admin key that was printed; closed by the end of its block."""

    def __init__(self, told: str) -> None:
        headers = {"Authorization": f"Bearer {printed(told, 'Admin key')}"}
        self.url = printed(told, "Talktime")
        self._client = httpx.Client(base_url=self.url, headers=headers, trust_env=False, verify=False, timeout=30)

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Any:
        response = self._client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def all(self, path: str, **query: Any) -> list[dict[str, Any]]:
        page = self.get(path, limit=500, **query)
        found: list[dict[str, Any]] = page["data"]
        while page["next_cursor"] is not None:
            page = self.get(path, limit=500, cursor=page["next_cursor"], **query)
            found += page["data"]
        return found


def printed(told: str, name: str) -> str:
    found = re.search(rf"^{name} +(\S+)$", told, re.MULTILINE)
    assert found is not None, told
    return found.group(1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_weeks_of_history_lead_to_a_present_that_goes_on(data_dir: Path) -> None:
    with demonstrated(data_dir) as told:
        for act in ACTS:
            assert act.title in told
            assert act.balance in told
        assert "Every charge and every balance came out as scripted" in told
        assert "Verified: everything that is stored adds up, and the chain of the ledger holds." in told
        assert tuple(re.findall(r"^Week \d, to [\d-]{10}: +(.+)$", told, re.MULTILINE)) == WEEKS
        with Api(told) as api:
            check_sessions(api)
            check_ledger(api)
            check_prices(api)
            check_links(told)
            check_that_it_lives(api)
    check_commands(told, data_dir)


def check_sessions(api: Api) -> None:
    sessions, now = api.all("/v1/sessions"), datetime.now(UTC)
    states = Counter(session["state"] for session in sessions)
    assert states["settled"] > 400
    assert (states["failed"], states["review"]) == (2, 2)
    assert states["live"] >= 3
    assert not set(states) - {"settled", "failed", "review", "live", "over", "starting"}
    assert 20 <= len({session["user_id"] for session in sessions}) <= 35
    asked = sorted(at(session["requested_at"]) for session in sessions)
    assert now - timedelta(days=36) < asked[0] < now - timedelta(days=34)
    assert now - timedelta(minutes=6) < asked[-1] < now
    # They are spread over all the weeks, and last between a few words and most of an hour.
    assert all(any(0 <= (now - one).days - day < 2 for one in asked) for day in range(34))
    charged = sorted(float(session["charged"]) for session in sessions if session["state"] == "settled")
    assert charged[0] == 0
    assert charged[len(charged) // 2] > 50
    assert charged[-1] > 600
    (outage,) = (one for one in sessions if (one["user_id"], one["scenario"]) == ("ruth.goldberg", "ghost"))
    charge = api.get(f"/v1/sessions/{outage['id']}/charge")
    assert charge["not_billed"]["no_proof_of_life"] > 290
    assert charge["own_outages"]
    steps = {one["why"] for session in sessions if session["state"] == "review" for one in steps_of(api, session)}
    reasons = {why.partition(":")[0] for why in steps}
    assert reasons >= {"the evidence contradicts itself", "no usable timeline for 86400 s"}
    # One that nobody had confirmed, and whose first heartbeat did.
    hers = [session for session in sessions if session["user_id"] == "hanna.virtanen"]
    assert any({"unconfirmed", "settled"} <= {one["state"] for one in steps_of(api, session)} for session in hers)


def steps_of(api: Api, session: dict[str, Any]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = api.get(f"/v1/sessions/{session['id']}")["steps"]
    return steps


def check_ledger(api: Api) -> None:
    users = api.all("/v1/users")
    entries = [entry for user in users for entry in api.all(f"/v1/users/{user['user_id']}/entries")]
    kinds = Counter(entry["kind"] for entry in entries)
    for kind, fewest in {"charge": 400, "grant": 60, "expiry": 8, "refund": 2, "void": 1, "adjustment": 2}.items():
        assert kinds[kind] >= fewest, kinds
    assert any(float(user["credit_limit"]) > 0 for user in users)
    below_zero = [entry for entry in entries if float(entry["balance_after"]) < 0]
    assert below_zero, "nobody ever talked on credit"
    grants = [grant for user in users for grant in api.all(f"/v1/users/{user['user_id']}/grants")]
    assert {grant["kind"] for grant in grants} == {"paid", "promotional"}
    assert {grant["state"] for grant in grants} >= {"active", "expired", "scheduled", "voided"}
    renewed = [grant for grant in grants if str(grant["reference"]).startswith("jonas.weber-week-")]
    assert len(renewed) == 5


def check_prices(api: Api) -> None:
    cards = api.all("/v1/rate-cards")
    versions = Counter(card["name"] for card in cards)
    assert versions == {"default": 2, "coaching": 2, "evening": 1, "reception": 1}
    used = Counter((one["rate_card"]["name"], one["rate_card"]["version"]) for one in api.all("/v1/sessions"))
    assert used["default", 1] > 30
    assert used["default", 2] > 30
    (what_if,) = api.all("/v1/rate-cards/simulations")
    assert what_if["state"] == "done"
    result = api.get(f"/v1/rate-cards/simulations/{what_if['id']}")["result"]
    assert result["sessions"] > 100
    assert result["users"]["higher"] > 0
    assert result["users"]["lower"] > 0
    assert result["margin"] is not None


def check_links(told: str) -> None:
    link = printed(told, "Sign in")
    address, token = link.partition("?")[0], parse_qs(urlsplit(link).query)["token"][0]
    with httpx.Client(trust_env=False, verify=False, timeout=30) as one:
        for _ in range(2):
            assert "Sign in as demo" in one.get(link).text
        assert one.post(address, data={"token": token}).status_code == 303
        for page in ("", "/users", "/reviews", "/sessions", "/events", "/audit-log", "/system", "/rate-cards"):
            shown = one.get(f"{address.removesuffix('/sign-in/link')}{page}")
            assert (shown.status_code, "admin:demo" in shown.text) == (200, True), page
    with httpx.Client(trust_env=False, verify=False, timeout=30) as other:
        assert other.post(address, data={"token": token}).status_code == 401
        assert other.get(link).status_code == 401
        portal = other.get(printed(told, "Portal"), follow_redirects=True)
        assert (portal.status_code, "Your sessions" in portal.text) == (200, True)


def check_that_it_lives(api: Api) -> None:
    """Sessions that began in the history are heard of in the present."""
    deadline, since = time.monotonic() + 60, datetime.now(UTC)
    while True:
        live = api.all("/v1/sessions", state="live")
        heard = [session for session in live if (last := session["last_heartbeat_at"]) and at(last) > since]
        if any(at(session["requested_at"]) < since - timedelta(minutes=4) for session in heard):
            return
        assert time.monotonic() < deadline, "no heartbeat of a session that began in the history"
        time.sleep(1)


def check_commands(told: str, data_dir: Path) -> None:
    found = re.search(r" explain --data-dir (\S+) (ses_\w+)", told)
    assert found is not None
    folder, session_id = Path(found.group(1)), found.group(2)
    verified = run("verify", data_dir=folder, TALKTIME_LEDGER_KEYS=(folder / "ledger-key").read_text())
    assert (verified.returncode, "adds up" in verified.stdout, verified.stderr) == (0, True, "")
    as_json = run("explain", "--json", session_id, data_dir=folder)
    assert as_json.returncode == 0, as_json.stderr
    document = json.loads(as_json.stdout)
    assert document["amount"] == ACTS[0].charge
    picture = data_dir / "talk.svg"
    drawn = run("explain", "--svg", str(picture), session_id, data_dir=folder)
    assert (drawn.returncode, drawn.stdout) == (0, ""), drawn.stderr
    assert f"{ACTS[0].charge} credits charged" in picture.read_text()
    shown_as_well = run("explain", "--svg", "-", session_id, data_dir=folder)
    assert shown_as_well.stdout == picture.read_text()
    nowhere = run("explain", "--svg", str(data_dir / "no" / "x.svg"), session_id, data_dir=folder)
    assert (nowhere.returncode, "No such file or directory" in nowhere.stderr) == (2, True)
    both = run("explain", "--svg", "-", "--json", session_id, data_dir=folder)
    assert (both.returncode, "not both" in both.stderr) == (2, True)
    for_people = run("explain", session_id, data_dir=folder)
    assert for_people.returncode == 0, for_people.stderr
    for word in (f"{ACTS[0].charge} credits", "silence_cap", "after_last_proof", "Second by second"):
        assert word in for_people.stdout
