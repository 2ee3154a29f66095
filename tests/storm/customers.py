"""Customers' backends in a storm: they grant, start, end and adopt, and ask again under the same key as they should."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tests.storm.checks import CARDS, micros
from tests.storm.facts import Told

SCRIPTS: Final = {
    "talk": 5, "guide": 4, "random": 5, "disconnect": 3, "endless": 3, "ghost": 3, "silent": 1, "unheard": 2,
}  # fmt: skip
"""Which conversations are played, and how often of each other."""

PATIENCE: Final = 60
"""Times that one request is sent before its sender gives up: it is half a minute at least."""

ADOPTED: Final = 0.05
ENDED: Final = 0.08
POOR: Final = 0.15
"""Shares: of sessions that a backend starts by itself, of those ended by request, of users who cannot pay for all."""

OWN: Final = "own-"
"""What personas of adopted sessions begin with: their starts come to the provider from somebody else."""


@dataclass
class Customers:
    """``base``: where the services are; ``provider``: where a backend starts sessions by itself."""

    client: httpx.AsyncClient
    base: str
    provider: str
    provider_key: str
    seed: int
    users: int
    longest_s: int
    told: list[Told] = field(default_factory=list)
    granted: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    def started(self) -> int:
        """How many sessions the provider has certainly started, as customers were told."""
        return sum(told.outcome == "started" and not told.persona.startswith(OWN) for told in self.told)

    async def publish(self) -> None:
        for name, card in CARDS.items():
            if name != "default":
                await self._insist("POST", "/v1/rate-cards", {"name": name, **card}, f"card-{name}")

    async def top_up(self) -> None:
        """Everybody's first grants, a few of them too small for what is to come."""
        for user in range(self.users):
            await self._grant(user, "first")

    async def _grant(self, user: int, what: str) -> None:
        chance = random.Random(f"{self.seed}-{user}-{what}")
        amount = str(chance.randint(20, 200) if chance.random() < POOR else chance.randint(1200, 3000))
        key = f"grant-{user}-{what}"
        answer = await self._insist("POST", f"/v1/users/u-{user}/grants", {"amount": amount}, key)
        if answer is None or answer.status_code != 201:
            raise RuntimeError(f"a grant is not taken: {answer and answer.text}")
        self.granted += micros(amount)

    async def session(self, number: int) -> None:
        """One session from its wish to its end, or to what is left of it."""
        chance = random.Random(f"{self.seed}-session-{number}")
        user = chance.randrange(self.users)
        adopted = chance.random() < ADOPTED
        persona = f"{OWN if adopted else 's-'}{number}"
        scenario = chance.choices(list(SCRIPTS), list(SCRIPTS.values()))[0]
        body: dict[str, Any] = {
            "user_id": f"u-{user}",
            "persona": persona,
            "scenario": scenario,
            "time_limit_s": chance.randint(45, self.longest_s),
            "rate_card": chance.choice(list(CARDS)),
        }
        if adopted:
            body["start"] = False
        if chance.random() < 0.1:
            await self._grant(user, f"before-{number}")
        answer = await self._insist("POST", "/v1/sessions", body, f"start-{number}")
        self.told.append(_told(persona, answer))
        if answer is None or answer.status_code != 201:
            return
        told = answer.json()
        if adopted and told.get("webhook"):
            await self._start_at_the_provider(body, told["webhook"], told["session"]["time_limit_s"])
        elif chance.random() < ENDED:
            await asyncio.sleep(chance.uniform(0.5, 4))
            await self._insist("POST", f"/v1/sessions/{told['session']['id']}/end", None, f"end-{number}", most=5)

    async def _start_at_the_provider(self, body: dict[str, Any], webhook: str, time_limit_s: int) -> None:
        asked = {"persona": body["persona"], "scenario": body["scenario"], "time_limit_s": time_limit_s}
        try:
            await self.client.post(
                f"{self.provider}/api/v1/session/start",
                json=asked | {"webhook": webhook},
                headers={"x-api-key": self.provider_key},
                timeout=2,
            )
        except httpx.HTTPError:
            self.answers["a backend's own start without an answer"] += 1

    async def _insist(
        self, method: str, path: str, body: Any, key: str, *, most: int = PATIENCE
    ) -> httpx.Response | None:
        """Ask under one key until there is a definite answer; the last one, null if there was never any."""
        answer: httpx.Response | None = None
        for _ in range(most):
            self.asked += 1
            try:
                answer = await self.client.request(
                    method, f"{self.base}{path}", json=body, headers={"Idempotency-Key": key}
                )
            except httpx.HTTPError as error:
                self.answers[type(error).__name__] += 1
            else:
                kind = "" if answer.status_code < 400 else " " + answer.json()["type"].rpartition("/")[2]
                self.answers[f"{answer.status_code}{kind}"] += 1
                in_flight = answer.status_code == 409 and "in-flight" in answer.text
                if not in_flight and (answer.status_code < 500 or answer.status_code in {502, 504}):
                    return answer
            await asyncio.sleep(0.5)
        return answer


def _told(persona: str, answer: httpx.Response | None) -> Told:
    if answer is None or answer.status_code in {409, 500, 503}:
        return Told(persona, "gave up", None)
    document = answer.json()
    if answer.status_code == 201:
        return Told(persona, "started", document["session"]["id"])
    return Told(persona, "open" if answer.status_code == 504 else "refused", document.get("session_id"))
