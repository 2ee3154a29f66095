"""The service in process, on a real database, with a scripted provider and a clock that stands still."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from app.core.ids import AccountThing, Kind, parse_public_id
from app.core.units import US_PER_S, Instant, instant_of
from app.heartbeats.endpoint import PATH
from app.ports.permits import Permits, Unlimited
from app.service import Service
from app.settings import Settings, load_settings
from tests.support.clock import ManualClock
from tests.support.documented import Documented
from tests.support.postgres import ask, tell
from tests.support.scripted_provider import ScriptedProvider

ADMIN_KEY = "test-admin-key-0123456789"
SECRET = "test-secret-0123456789"
PUBLIC_URL = "http://talktime.example"
FORGET_REPORTS = "delete from receiving"
NO_LIMIT = Unlimited()
NOT_LIMITED = {"caller_max_rps": 0, "webhook_max_rps": 0, "failed_auth_max_rpm": 0}
"""The clock stands still, so no call would ever come free again."""


@dataclass
class World:
    """Everything that a test needs; ``client`` calls the API with the admin key."""

    service: Service
    client: httpx.AsyncClient
    provider: ScriptedProvider
    clock: ManualClock
    settings: Settings

    def renew(self) -> None:
        """As new for another test: the provider untold, the clock at its beginning, no session left to work on."""
        vars(self.provider).update(vars(ScriptedProvider(self.provider.url, self.provider.api_key)))
        self.clock.set(ManualClock().now())
        self.client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        self.retire()

    def retire(self) -> None:
        """What is unsettled stays so: another test's provider knows nothing of these sessions."""
        tell(self.service.database.conninfo, "update sessions set due_at = null where due_at is not null")

    @staticmethod
    def user() -> str:
        """A user that no other test knows."""
        return f"user-{uuid4().hex[:12]}"

    async def grant(self, user_id: str, amount: str, **terms: Any) -> dict[str, Any]:
        response = await self.client.post(f"/v1/users/{user_id}/grants", json={"amount": amount, **terms})
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def start(self, user_id: str, **asked: Any) -> dict[str, Any]:
        """Start a session and answer its document."""
        body = {"user_id": user_id, "persona": "tutor", "scenario": "talk", **asked}
        response = await self.client.post("/v1/sessions", json=body)
        assert response.status_code == 201, response.text
        return dict(response.json()["session"])

    async def start_unconfirmed(self, user_id: str, **asked: Any) -> dict[str, Any]:
        """Start a session whose outcome stays unknown; answers its document."""
        self.provider.start_status = 500
        body = {"user_id": user_id, "persona": "tutor", "scenario": "talk", **asked}
        response = await self.client.post("/v1/sessions", json=body)
        self.provider.start_status = 200
        assert response.status_code == 504, response.text
        return dict(await self.get(f"/v1/sessions/{response.json()['session_id']}"))

    async def session(self, session: dict[str, Any]) -> dict[str, Any]:
        """The session as it is now."""
        return dict(await self.get(f"/v1/sessions/{session['id']}"))

    async def get(self, path: str) -> Any:
        response = await self.client.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def endpoint(self) -> str:
        """The id of an endpoint to which nothing is ever sent; the same for all tests of a database."""
        url = "https://hook.example/talktime"
        for known in (await self.get("/v1/webhook-endpoints?limit=500"))["data"]:
            if known["url"] == url:
                return str(known["id"])
        response = await self.client.post("/v1/webhook-endpoints", json={"url": url})
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    async def balance(self, user_id: str) -> dict[str, Any]:
        return dict(await self.get(f"/v1/users/{user_id}/balance"))

    @staticmethod
    def key(session: dict[str, Any]) -> AccountThing:
        key = parse_public_id(Kind.SESSION, session["id"])
        assert key is not None
        return key

    def webhook(self, session: dict[str, Any]) -> str:
        """The path of the session's webhook."""
        return PATH + self.service.tokens.mint(self.key(session))

    async def heartbeat(self, session: dict[str, Any], **extra: Any) -> httpx.Response:
        body = {"session_id": session["provider_session_id"], **extra}
        return await self.client.post(self.webhook(session), json=body)

    async def heartbeats_until(self, session: dict[str, Any], seconds: int, every: int = 30) -> None:
        """Let time pass by ``seconds`` with a heartbeat after each ``every``."""
        for _ in range(seconds // every):
            self.clock.advance(every)
            assert (await self.heartbeat(session)).status_code == 204

    async def reconcile(self) -> int:
        """One round of reconciliation."""
        return await self.service.reconciler.run_due()

    async def live_through(self, session: dict[str, Any], seconds: float) -> None:
        """Let time pass without a pause of ours: the session is worked on whenever it is due."""
        end = Instant(self.clock.now() + round(seconds * US_PER_S))
        in_vain, before = 0, None
        while True:
            statement = f"select due_at from sessions where id = '{self.key(session).id}'"
            ((due_at,),) = ask(self.service.database.conninfo, statement)
            if due_at is None or instant_of(due_at) >= end:
                break
            in_vain, before = (in_vain + 1 if due_at == before else 0), due_at
            assert in_vain < 100, "the session stays due, whatever is done"
            self.clock.set(Instant(max(instant_of(due_at), self.clock.now() + 1)))
            await self.reconcile()
        self.clock.set(Instant(max(end, self.clock.now())))
        await self.reconcile()

    async def settle(self, session: dict[str, Any]) -> dict[str, Any]:
        """Let time pass and reconcile until nothing more happens to the session; answers its document."""
        for _ in range(100):
            document: dict[str, Any] = await self.get(f"/v1/sessions/{session['id']}")
            if document["state"] in {"settled", "failed", "review"}:
                return document
            self.clock.advance(60)
            await self.reconcile()
        raise AssertionError(f"the session stays {document['state']}")


def _hold_against(service: Service) -> Callable[[httpx.Response], Awaitable[None]]:
    """Every answer that a test gets has to be one that the API document tells of."""
    documented = Documented(service.api_document)

    async def check(response: httpx.Response) -> None:
        if response.headers.get("content-type", "").startswith("text/"):
            return  # read piece by piece, if at all
        await response.aread()
        documented.check(response)

    return check


@asynccontextmanager
async def world(
    database_url: str,
    provider: ScriptedProvider,
    *,
    clock: ManualClock | None = None,
    reports: bool = False,
    permits: Permits | None = NO_LIMIT,
    **settings: Any,
) -> AsyncIterator[World]:
    """Run a service on ``database_url``; ``settings`` are fields of :class:`app.settings.Settings`.

    Time passes in leaps here. Unless ``reports``, nothing is known of when the service was receiving, so that a leap is
    not an outage.

    Callers have no limits unless the settings say so. The provider's rate has none, as waiting for its turn would move
    the clock; with ``permits=None`` it has that of the settings.
    """
    clock = clock or ManualClock()
    loaded = load_settings(
        database_url=database_url,
        gabber_base_url=provider.url,
        gabber_api_key=provider.api_key,
        ledger_keys="test-ledger-key-0123456789",
        **({"secret": SECRET, "public_url": PUBLIC_URL, "bootstrap_admin_key": ADMIN_KEY} | NOT_LIMITED | settings),
    )
    service = Service(loaded, database_url, clock=clock, permits=permits)
    await service.start()
    if not reports:
        tell(database_url, FORGET_REPORTS)
    transport = httpx.ASGITransport(app=service.app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    try:
        hooks = {"response": [_hold_against(service)]}
        async with httpx.AsyncClient(
            transport=transport, base_url=PUBLIC_URL, headers=headers, event_hooks=hooks
        ) as client:
            made = World(service, client, provider, clock, loaded)
            yield made
            made.retire()
    finally:
        await service.stop()
        if not reports:
            tell(database_url, FORGET_REPORTS)
