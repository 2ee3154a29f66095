"""The demonstration's history: the whole service lives through weeks, on a clock that leaps from one event to the next.

Nothing is put into the database: customers call the API, the provider's server sends heartbeats to the webhook and is
asked for timelines, and what time brings is posted by the service's own jobs. Only the alarms that wake them are
missing, as nothing has to be looked for where all that is due is known: each is woken at the instant at which it has
something to do, and upkeep twice a day.
"""

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx
import uvicorn
from sqlalchemy import func, select

from app.access.admins import Passwords, create_admin
from app.core.access import Actor, Role
from app.core.units import US_PER_S, Instant, Micros, datetime_of
from app.db.tables import accounts, sessions
from app.demo.customers import Customers, begin_body, buy_if_low, exact
from app.demo.people import PEOPLE
from app.demo.plan import HOUR, Begin, Call, Deed, Faults, Pause, Weather, WhatIf
from app.demo.processes import DemoFailed
from app.http.headers import headers_of
from app.http.wire import protocol_of
from app.ports.clock import LeapingClock
from app.ports.ids import TimeOrderedIds
from app.ports.permits import Unlimited
from app.ports.randomness import SystemRandomness
from app.service import Service
from app.settings import Settings
from app.simulator.server import Simulator

ADMINS: Final = (("demo", Role.FULL), ("ines.support", Role.FULL), ("paul.finance", Role.READ_ONLY))
UPKEEP_EVERY: Final = Micros(12 * HOUR)
REPORT_EVERY: Final = Micros(12 * HOUR)
"""How often the service says that it receives; in between it is known that it did."""

WAKE_EVERY: Final = Micros(US_PER_S)
"""Who stays due is looked at again after this, as the alarm would."""

FIRST_ORDER: Final = 1001
WEEK: Final = 7 * 24 * HOUR
MOST_ROUNDS: Final = 10_000
PERSON_OF: Final = {person.user_id: person for person in PEOPLE}
REFUSED: Final = frozenset({402, 409})
"""Starts that our own rules refuse: too few credits, suspended, a limit reached."""


class Past:
    """See the module. All on one event loop; :meth:`open` it and :meth:`close` it."""

    def __init__(self, settings: Settings, clock: LeapingClock, simulator: Simulator) -> None:
        if settings.database_url is None or settings.bootstrap_admin_key is None:
            raise ValueError("the history needs a database and an admin key")
        self._settings = settings
        self._url = settings.database_url
        self.clock = clock
        self._simulator = simulator
        self._service: Service | None = None
        self._server: tuple[uvicorn.Server, asyncio.Task[None]] | None = None
        admin_key = settings.bootstrap_admin_key.get_secret_value()
        self.customers = Customers(settings.public_url, admin_key, httpx.ASGITransport(app=self._reach))
        self._provider = httpx.AsyncClient(
            base_url=simulator.url,
            headers={"x-api-key": simulator.config.api_key},
            trust_env=False,
            verify=False,  # noqa: S501 - there is no TLS here
        )
        self._made: dict[str, str] = {}
        self._faults: Faults = {}
        self._due: tuple[Instant | None, Instant | None] | None = None
        self._wakes_at = clock.now()
        self._unsure_until = Instant(0)
        self._upkeep_at = clock.now()
        self.counted: Counter[str] = Counter()
        self._counted_before: Counter[str] = Counter()
        self._began, self._weeks = clock.now(), 0

    async def open(self) -> None:
        """Start the service, and make keys and admins."""
        await self._start_service()
        await self.customers.get_keys()
        service = self._running
        passwords, ids = Passwords(SystemRandomness()), TimeOrderedIds(self.clock, SystemRandomness())
        for name, role in ADMINS:
            hashed = await passwords.hash(secrets.token_urlsafe(32))
            async with service.database.transaction() as transaction:
                now, actor = self.clock.now(), Actor("cli:demo")
                await create_admin(transaction, ids, name, role, hashed, now=now, actor=actor)

    async def close(self) -> None:
        await self._stop_service()
        await self.customers.aclose()
        await self._provider.aclose()

    @property
    def next_order(self) -> int:
        return FIRST_ORDER + self.counted["bought"]

    # The service

    @property
    def _running(self) -> Service:
        if self._service is None:
            raise DemoFailed("the service is away")
        return self._service

    async def _reach(self, scope: Any, receive: Any, send: Any) -> None:
        await self._running.app(scope, receive, send)

    async def _start_service(self) -> None:
        service = Service(self._settings, self._url, clock=self.clock, permits=Unlimited(), report_every=REPORT_EVERY)
        await service.start()
        port = int(self._settings.public_url.rpartition(":")[2])
        listener = socket.create_server(("127.0.0.1", port))
        config = uvicorn.Config(
            service.app,
            lifespan="off",
            http=protocol_of(60, headers_of(self._settings.public_url)),
            ws="none",
            access_log=False,
            log_config=None,
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        self._server = server, asyncio.create_task(server.serve(sockets=[listener]), name="service of the past")
        self._service = service
        self._due = None
        self._wakes_at = Instant(self.clock.now() + WAKE_EVERY)

    async def _stop_service(self) -> None:
        if self._server is not None:
            server, serving = self._server
            server.should_exit = True
            await serving
            self._server = None
        if self._service is not None:
            service, self._service = self._service, None
            await service.stop()

    # Time

    async def until(self, instant: Instant) -> None:
        """Live on until then."""
        while self.clock.now() < instant:
            wakes = [instant]
            if self._service is not None:
                await self._look()
                due = [max(due, self._wakes_at) for due in self._due or () if due is not None]
                wakes += [self._upkeep_at, *due]
            await self.clock.lead_on(max(self.clock.now(), min(wakes)))
            await self._simulator.world.posted()
            if self._service is not None:
                await self._do_what_is_due()

    def look_again(self) -> None:
        """What is due next has changed by a call that was no deed."""
        self._due = None

    async def _look(self) -> None:
        """When sessions and accounts are due next; what may have changed that, says so."""
        if self._due is not None and self.clock.now() > self._unsure_until:
            return
        next_due = select(
            select(func.min(sessions.c.due_at)).scalar_subquery(),
            select(func.min(accounts.c.next_due_at)).scalar_subquery(),
        )
        async with self._running.database.reading() as transaction:
            row = (await transaction.execute(next_due)).one()
        self._due = row[0], row[1]

    async def _do_what_is_due(self) -> None:
        service, now = self._running, self.clock.now()
        session, account = self._due or (None, None)
        upkeep, woken = now >= self._upkeep_at, now >= self._wakes_at
        if upkeep:
            self._upkeep_at = Instant(now + UPKEEP_EVERY)
            await service.receiving.report()
            await service.make_partitions()
            await service.purge()
            await service.drop_old_ticks()
        if woken and session is not None and session <= now:
            await service.reconciler.run_due()
            self._due = None
        if upkeep or (woken and account is not None and account <= now):
            await service.post_due()
            self._due = None
        if self._due is None:
            # Whatever is due still waits for the next alarm.
            self._wakes_at = Instant(now + WAKE_EVERY)

    # Deeds

    async def live(self, deeds: Sequence[Deed], tell: Callable[[str], None]) -> None:
        """Do them all, each at its time."""
        for deed in deeds:
            await self.until(deed.at)
            while self.clock.now() >= self._began + (self._weeks + 1) * WEEK:
                self._weeks += 1
                tell(self._week(self._weeks, self.counted - self._counted_before))
                self._counted_before = self.counted.copy()
            await self.do(deed)

    def _week(self, week: int, counted: Counter[str]) -> str:
        day = datetime_of(self.clock.now()).date()
        parts = [f"{counted['begun']:3d} sessions", f"{counted['bought']} top-ups"]
        parts += [f"{counted[name]} {name}" for name in ("refused", "failed") if counted[name]]
        return f"Week {week}, to {day}: {', '.join(parts)}"

    async def do(self, deed: Deed) -> None:
        match deed:
            case Call():
                path = deed.path.format_map(self._made)
                made = await self.customers.make(deed.by, deed.method, path, deed.body)
                if deed.named:
                    self._made[deed.named] = made["id"]
            case Begin():
                await self._begin(deed)
            case Weather():
                await self._set_faults(deed.faults)
            case Pause():
                await self._stop_service()
                await self.until(Instant(deed.at + deed.lasts))
                await self._start_service()
            case WhatIf():
                await self._ask_what_if(deed)
        self._due = None

    async def _set_faults(self, faults: Faults) -> None:
        self._faults = faults
        await self._tell_provider("/sim/faults", faults)

    async def _tell_provider(self, path: str, faults: Faults) -> None:
        response = await self._provider.put(path, json=dict(faults))
        if response.status_code != httpx.codes.OK:
            raise DemoFailed(f"the simulated provider answered {response.status_code}: {response.text}")

    async def _begin(self, deed: Begin) -> None:
        person = PERSON_OF.get(deed.user_id)
        if person is not None:
            bought = await buy_if_low(self.customers, person, self.clock.now(), self.next_order)
            self.counted["bought"] += bought
        if deed.met_by is not None:
            await self._tell_provider("/sim/faults", {deed.met_by: {"count": 1}})
        body = begin_body(deed.user_id, deed.persona, deed.scenario, deed.asks_s, deed.app)
        response = await self.customers.call("backend", "POST", "/v1/sessions", body)
        if deed.met_by is not None:
            await self._tell_provider("/sim/faults", self._faults)
        document = exact(response)
        if response.status_code in REFUSED:
            self.counted["refused"] += 1
            return
        if response.status_code == httpx.codes.CREATED:
            session = document["session"]
            self.counted["begun"] += 1
        elif deed.met_by is not None:
            session = await self.customers.get(f"/v1/sessions/{document['session_id']}")
            self._unsure_until = Instant(self.clock.now() + HOUR)
            self.counted["failed" if session["state"] == "failed" else "begun"] += 1
        else:
            raise DemoFailed(f"a start answered {response.status_code}: {response.text}")
        if deed.named:
            self._made[deed.named] = session["id"]
        if deed.spoiled is not None:
            await self._tell_provider(f"/sim/sessions/{session['provider_session_id']}/faults", deed.spoiled)

    async def _ask_what_if(self, deed: WhatIf) -> None:
        made = await self.customers.make("pricing", "POST", "/v1/rate-cards/simulations", deed.body)
        for _ in range(MOST_ROUNDS):
            await self._running.simulate()
            asked = await self.customers.make("pricing", "GET", f"/v1/rate-cards/simulations/{made['id']}")
            if asked["state"] == "done":
                return
            await self.until(Instant(self.clock.now() + WAKE_EVERY))
        raise DemoFailed("the what-if does not come to its end")
