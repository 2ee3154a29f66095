"""Playing the script, on the first day of the history: grant, start, wait until all is settled, compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from app.core.units import US_PER_S, Instant, Micros
from app.demo.customers import exact
from app.demo.past import Past
from app.demo.processes import DemoFailed
from app.demo.script import Act

LONGEST: Final = Micros(2400 * US_PER_S)
"""By then every session of the script is settled."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of an act: the session's and its charge's documents (null: refused), and the user's balance."""

    act: Act
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


async def play(past: Past, acts: Sequence[Act]) -> list[Result]:
    """Play all acts at once."""
    started = []
    for act in acts:
        await past.customers.make("billing", "POST", f"/v1/users/{act.user}/grants", {"amount": act.grant})
        started.append((act, *await _start(past, act)))
    past.look_again()
    await past.until(Instant(past.clock.now() + LONGEST))
    return [await _result(past, *row) for row in started]


async def _start(past: Past, act: Act) -> tuple[str | None, str | None]:
    document: dict[str, Any] = {"user_id": act.user, "persona": "tutor", "scenario": act.scenario}
    if act.time_limit_s is not None:
        document["time_limit_s"] = act.time_limit_s
    response = await past.customers.call("backend", "POST", "/v1/sessions", document)
    if response.status_code == httpx.codes.PAYMENT_REQUIRED:
        return None, response.json()["detail"]
    if response.status_code != httpx.codes.CREATED:
        raise DemoFailed(f"a start answered {response.status_code}: {response.text}")
    return exact(response)["session"]["id"], None


async def _result(past: Past, act: Act, session_id: str | None, refusal: str | None) -> Result:
    balance = (await past.customers.get(f"/v1/users/{act.user}/balance"))["balance"]
    if session_id is None:
        return Result(act, None, None, balance, refusal)
    session = await past.customers.get(f"/v1/sessions/{session_id}")
    charge = await past.customers.get(f"/v1/sessions/{session_id}/charge")
    return Result(act, session, charge, balance, None)
