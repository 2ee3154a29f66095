"""The demonstration from its first day to the present: the provider, the history, and what is needed to look at it."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from app.access.sign_in_links import make_link
from app.core.access import Actor
from app.core.units import US_PER_S, Instant, Micros
from app.db.database import Database
from app.demo.backstage import Backstage, simulated
from app.demo.customers import Customers
from app.demo.past import ADMINS, Past
from app.demo.people import PERSONAS, scripts
from app.demo.plan import DAYS, plan, talkers
from app.demo.play import Result, play
from app.demo.present import go_on
from app.demo.processes import free_port, kept_secret, serving
from app.demo.script import ACTS
from app.ledger.findings import Findings
from app.ledger.keys import ledger_keys_of
from app.ledger.runs import VerifyRun, record_run
from app.ledger.verify import verify
from app.ports.clock import LeapingClock
from app.ports.ids import TimeOrderedIds
from app.ports.randomness import SeededRandomness, SystemRandomness
from app.settings import settings_of
from app.simulator.config import SimulatorConfig
from app.simulator.server import Simulator
from app.web.sign_in import LINK

DAY_S: Final = 86_400
PULL_EVERY_S: Final = 360
"""How often the history's sessions are pulled while they live: less often than in the present, so that it is quick."""

CAUGHT_UP: Final = Micros(US_PER_S // 10)
"""The clock is let go when it is no further behind than this."""

LINK_LASTS: Final = Micros(30 * 60 * US_PER_S)
VERIFY_TIMEOUT_MS: Final = 600_000


class Stage:
    """Everything that runs, and the keys to it. To be used from the main thread."""

    def __init__(self, behind: Backstage, database_url: str, data_dir: Path, seed: int) -> None:
        self.log_file = data_dir / "demo.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self.admin_key = f"demo_{secrets.token_hex(16)}"
        self._behind = behind
        self._seed = seed
        self._present = _wall_clock()
        # An hour before the history's first deed, so that nothing of it is too early.
        self._clock = LeapingClock(Instant(self._present - (DAYS * DAY_S + 3600) * US_PER_S))
        self._provider_key = f"sim_{secrets.token_hex(16)}"
        self._opened = AsyncExitStack()
        self._simulator = behind.run(self._open())
        self._orders = 0
        self._given = {
            "database_url": database_url,
            "data_dir": str(data_dir.absolute()),
            "gabber_base_url": self._simulator.url,
            "gabber_api_key": self._provider_key,
            "gabber_capabilities": "end",
            "public_url": self.url,
            "secret": kept_secret(data_dir / "secret"),
            "ledger_keys": kept_secret(data_dir / "ledger-key"),
            "bootstrap_admin_key": self.admin_key,
        }
        self._settings = settings_of(**self._given, reconcile_interval_s=PULL_EVERY_S)
        self._customers = Customers(self.url, self.admin_key)

    @property
    def provider_url(self) -> str:
        return self._simulator.url

    async def _open(self) -> Simulator:
        config = SimulatorConfig(
            api_key=self._provider_key, clock=self._clock, scripts=scripts(), personas=PERSONAS, seed=self._seed
        )
        return await self._opened.enter_async_context(simulated(config))

    def close(self) -> None:
        self._behind.run(self._close())

    async def _close(self) -> None:
        await self._customers.aclose()
        await self._opened.aclose()

    def live_through_the_past(self, tell: Callable[[str], None]) -> list[Result]:
        """Make the history, up to now; what came of the acts that are scripted to the micro-credit."""
        return self._behind.run(self._live_through_the_past(tell))

    async def _live_through_the_past(self, tell: Callable[[str], None]) -> list[Result]:
        past = Past(self._settings, self._clock, self._simulator)
        try:
            await past.open()
            results = await play(past, ACTS)
            await past.live(plan(self._seed, self._present), tell)
            # By now it is later, however long it took.
            await past.live(talkers(self._seed, _wall_clock()), tell)
            # Making it took a while, which has to be lived through as well, and so does that.
            while (now := _wall_clock()) - self._clock.now() > CAUGHT_UP:
                await past.until(now)
            self._orders = past.next_order
            self._customers.take_keys_of(past.customers)
        finally:
            await past.close()
        self._clock.let_go()
        return results

    @contextmanager
    def serving(self) -> Iterator[None]:
        """The service in real time, as a process of its own."""
        with serving(self._given, self.log_file):
            yield

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """People go on talking until the block ends."""
        randomness = SeededRandomness(self._seed, "present")
        with self._behind.going_on(go_on(self._customers, self._clock, randomness, self._orders)):
            yield

    def verify(self) -> Findings:
        """What ``talktime verify`` finds, written down as its run."""
        return self._behind.run(self._verify())

    async def _verify(self) -> Findings:
        database, keys = Database(self._given["database_url"], pool_size=1), ledger_keys_of(self._settings)
        try:
            run = VerifyRun(TimeOrderedIds(self._clock, SystemRandomness()).new(), self._clock.now(), keys is not None)
            async with database.reading(statement_timeout_ms=VERIFY_TIMEOUT_MS) as transaction:
                found = await verify(transaction, keys)
            async with database.transaction() as transaction:
                await record_run(transaction, run, found, self._clock.now())
        finally:
            await database.close()
        return found

    def sign_in_link(self) -> str:
        """An address that signs an admin in, once."""
        return self._behind.run(self._sign_in_link())

    async def _sign_in_link(self) -> str:
        database, randomness = Database(self._given["database_url"], pool_size=1), SystemRandomness()
        ids, (name, _) = TimeOrderedIds(self._clock, randomness), ADMINS[0]
        try:
            async with database.transaction() as transaction:
                now, actor = self._clock.now(), Actor("cli:demo")
                link = await make_link(transaction, ids, randomness, name, now=now, actor=actor, lasts=LINK_LASTS)
        finally:
            await database.close()
        return f"{self.url}{LINK}?token={link.token}"

    def portal_link(self, user_id: str) -> str:
        """An address that opens a user's portal for a day."""
        path = f"/v1/users/{quote(user_id, safe='')}/portal-links"
        made = self._behind.run(self._customers.make("backend", "POST", path, {"ttl_s": DAY_S}))
        return str(made["url"])


def _wall_clock() -> Instant:
    return Instant(time.time_ns() // 1000)


@contextmanager
def staged(behind: Backstage, database_url: str, data_dir: Path, seed: int) -> Iterator[Stage]:
    stage = Stage(behind, database_url, data_dir, seed)
    try:
        yield stage
    finally:
        stage.close()
