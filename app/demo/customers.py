"""The customer's backends: they call the API, each with the key of its own trade."""

import json
import secrets
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

import httpx

from app.core.units import US_PER_DAY, Instant, format_instant
from app.demo.people import Person
from app.demo.processes import DemoFailed

OWNER: Final = "owner"
"""Who holds the admin key."""

TRADES: Final[Mapping[str, list[str]]] = {
    "backend": ["read", "sessions:write"],
    "billing": ["read", "credits:write"],
    "support": ["read", "sessions:write", "credits:write"],
    "pricing": ["read", "pricing:write"],
}
MADE: Final = frozenset({200, 201, 202, 204})


class Customers:
    """Close it with :meth:`aclose`."""

    def __init__(self, url: str, admin_key: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """``transport``: how the API is reached; null: over the network."""
        # Without certificates to load: there is no TLS here.
        self._client = httpx.AsyncClient(base_url=url, transport=transport, trust_env=False, verify=False, timeout=30)  # noqa: S501
        self._keys = {OWNER: admin_key}

    async def aclose(self) -> None:
        await self._client.aclose()

    async def get_keys(self) -> None:
        """Have a key made for each trade."""
        for name, scopes in TRADES.items():
            made = await self.make(OWNER, "POST", "/v1/api-keys", {"name": name, "scopes": scopes})
            self._keys[name] = made["secret"]

    def take_keys_of(self, other: "Customers") -> None:
        self._keys = dict(other._keys)

    async def call(self, by: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._keys[by]}"}
        if method == "POST":
            headers["Idempotency-Key"] = secrets.token_hex(16)
        return await self._client.request(method, path, json=body, headers=headers)

    async def make(self, by: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The document that was answered. Raises :class:`~app.demo.processes.DemoFailed` if it was a refusal."""
        response = await self.call(by, method, path, body)
        if response.status_code not in MADE:
            raise DemoFailed(f"{method} {path} answered {response.status_code}: {response.text}")
        return exact(response)

    async def get(self, path: str) -> Any:
        return await self.make("support", "GET", path)


async def buy_if_low(customers: Customers, person: Person, now: Instant, order: int) -> bool:
    """What the shop does before a session: whether he had too little, and has bought, by this order."""
    pack = person.buys
    if pack is None:
        return False
    path = f"/v1/users/{quote(person.user_id, safe='')}"
    response = await customers.call("billing", "GET", f"{path}/balance")
    new = response.status_code == httpx.codes.NOT_FOUND
    if not new and Decimal(exact(response)["balance"]) >= person.below:
        return False
    body = {
        "amount": str(pack.amount),
        "cost_basis": pack.cost_basis,
        "reference": f"order-{order}",
        "expires_at": format_instant(Instant(now + pack.days * US_PER_DAY)),
    }
    await customers.make("billing", "POST", f"{path}/grants", body)
    return True


def begin_body(user_id: str, persona: str, scenario: str, asks_s: int, app: str) -> dict[str, Any]:
    """The body of a start."""
    who = {"user_id": user_id, "persona": persona, "scenario": scenario}
    return {**who, "time_limit_s": asks_s, "metadata": {"app": app}}


def exact(response: httpx.Response) -> Any:
    """The document with the digits of its numbers, so that tables show what was answered."""
    return json.loads(response.content, parse_float=Decimal)
