"""Playing the script: grant, start, wait until all is settled, compare."""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import httpx

from app.core.units import US_PER_S
from app.demo.processes import DemoFailed, Stage
from app.demo.script import Act

LONGEST_S: Final = 2400
"""On the scaled clock: by then every session of the script is settled."""

_FINAL: Final = frozenset({"settled", "failed", "review"})
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an act: the session's and its charge's documents (null: refused), and the user's balance."""

    act: Act
    user_id: str
    session: dict[str, Any] | None
    charge: dict[str, Any] | None
    balance: str
    refusal: str | None

    @property
    def as_scripted(self) -> bool:
        charged = None
        if self.session is not None:
            charged = self.session["charged"] if self.session["state"] == "settled" else "not settled"
        return (charged, self.balance) == (self.act.charge, self.act.balance)


class Customer:
    """The customer's backend: calls the API with the admin key."""

    def __init__(self, stage: Stage) -> None:
        self._client = httpx.Client(
            base_url=stage.service_url,
            headers={"Authorization": f"Bearer {stage.admin_key}"},
            trust_env=False,
            timeout=30,
        )

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, document: dict[str, Any]) -> httpx.Response:
        return self._client.post(path, json=document, headers={"Idempotency-Key": secrets.token_hex(16)})

    def get(self, path: str) -> dict[str, Any]:
        response = self._client.get(path)
        if response.status_code != httpx.codes.OK:
            raise DemoFailed(f"GET {path} answered {response.status_code}")
        document: dict[str, Any] = _exact(response)
        return document


def _exact(response: httpx.Response) -> Any:
    """The document with the digits of its numbers, so that tables show what was answered."""
    return json.loads(response.content, parse_float=Decimal)


def play(stage: Stage, acts: Sequence[Act], tell: Callable[[str], None]) -> list[Result]:
    """Play all acts at once; ``tell`` is called with each thing that happens."""
    customer = Customer(stage)
    try:
        run = secrets.token_hex(2)
        started: list[tuple[Act, str, str | None, str | None]] = []
        for act in acts:
            user_id = f"{act.user}-{run}"
            _expect(customer.post(f"/v1/users/{user_id}/grants", {"amount": act.grant}), 201)
            started.append((act, user_id, *_start(customer, act, user_id, tell)))
        _wait(customer, stage, [session_id for _, _, session_id, _ in started if session_id], tell)
        return [_result(customer, *row) for row in started]
    finally:
        customer.close()


def _start(customer: Customer, act: Act, user_id: str, tell: Callable[[str], None]) -> tuple[str | None, str | None]:
    document: dict[str, Any] = {"user_id": user_id, "persona": "tutor", "scenario": act.scenario}
    if act.time_limit_s is not None:
        document["time_limit_s"] = act.time_limit_s
    response = customer.post("/v1/sessions", document)
    if response.status_code == httpx.codes.PAYMENT_REQUIRED:
        detail = response.json()["detail"]
        tell(f"{user_id} is refused: {detail}")
        return None, detail
    session = _expect(response, 201)["session"]
    tell(
        f"{user_id} has {act.grant} credits and starts {act.scenario!r}: "
        f"at most {session['time_limit_s']} s, {session['held']} credits held"
    )
    return session["id"], None


def _wait(customer: Customer, stage: Stage, waiting: list[str], tell: Callable[[str], None]) -> None:
    began = stage.clock.now()
    states: dict[str, str] = {}
    while any(states.get(session_id) not in _FINAL for session_id in waiting):
        passed_s = (stage.clock.now() - began) // US_PER_S
        if passed_s > LONGEST_S:
            raise DemoFailed(f"not all sessions were settled in time; see {stage.log_file}")
        for session_id in waiting:
            if states.get(session_id) in _FINAL:
                continue
            session = customer.get(f"/v1/sessions/{session_id}")
            if session["state"] != states.get(session_id):
                states[session_id] = session["state"]
                amount = session["charged"] or session["accrued"]
                tell(f"+{passed_s:4d} s  {session['user_id']} is {session['state']}, {amount} credits")
        time.sleep(_POLL_S)


def _result(customer: Customer, act: Act, user_id: str, session_id: str | None, refusal: str | None) -> Result:
    balance = customer.get(f"/v1/users/{user_id}/balance")["balance"]
    if session_id is None:
        return Result(act, user_id, None, None, balance, refusal)
    session = customer.get(f"/v1/sessions/{session_id}")
    charge = customer.get(f"/v1/sessions/{session_id}/charge")
    return Result(act, user_id, session, charge, balance, None)


def _expect(response: httpx.Response, status: int) -> dict[str, Any]:
    if response.status_code != status:
        raise DemoFailed(
            f"{response.request.method} {response.request.url.path} answered {response.status_code}: {response.text}"
        )
    document: dict[str, Any] = _exact(response)
    return document
