"""The composition root: everything is built here, once, from the settings, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import cached_property, partial
from typing import Any, Final, TypeVar

import httpx
import structlog
from fastapi import Depends, FastAPI
from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from app import __version__
from app.access.authentication import Authentication
from app.access.issuer import Issuer, IssuerTerms
from app.access.key_use import WRITE_EVERY_S, KeyUse
from app.access.keys import revoked_callers
from app.access.routes import access_routes
from app.access.schemas import ACCESS
from app.access.user_tokens import UserTokens
from app.accounts.bulk_routes import bulk_routes
from app.accounts.correction_routes import correction_routes
from app.accounts.recurring import post_recurring
from app.accounts.recurring_routes import recurring_routes
from app.accounts.routes import account_routes
from app.accounts.schemas import ACCOUNTS
from app.accounts.settings_routes import settings_routes
from app.budget import ProviderBudget
from app.clock_watch import CHECK_EVERY_S, ClockWatch
from app.core.ids import AccountThing
from app.core.units import US_PER_DAY, US_PER_S, Instant, Micros, datetime_of
from app.db.database import Database, DatabaseUnavailable, DatabaseUnfit
from app.db.durable import DurableStatements
from app.deliveries.endpoints import EndpointPorts
from app.deliveries.retention import look_after
from app.deliveries.routes import delivery_routes
from app.deliveries.schemas import EVENTS
from app.deliveries.sending import NetworkSender, Sender
from app.deliveries.worker import Deliverer
from app.finance.routes import finance_routes
from app.finance.schemas import FINANCE
from app.gabber import Capabilities, Gabber
from app.gabber.client import PULL_DEADLINE_TIMEOUTS
from app.heartbeats.binding import Bindings
from app.heartbeats.endpoint import PATH, HeartbeatEndpoint
from app.heartbeats.retention import drop_old_ticks
from app.heartbeats.schemas import HEARTBEATS
from app.heartbeats.writer import TickWriter
from app.http.access import Identify, check_access, check_declared
from app.http.api_document import api_document
from app.http.docs_page import DOCUMENT, add_document_routes
from app.http.front import Front
from app.http.headers import headers_of
from app.http.health import HEALTH, add_health_routes
from app.http.idempotency import purge
from app.http.parameters import known_parameters
from app.http.problems import add_problem_handlers
from app.http.rate_limits import CALLER_BURST_S, WEBHOOK_BURST_S, Meter, RateLimited, per_minute, per_second
from app.http.request_ids import RequestIds
from app.http.sealing import Sealing
from app.keys import KeyRing, Purpose
from app.ledger.book import LedgerPorts
from app.ledger.due import post_due
from app.ledger.keys import LedgerKeys, ledger_keys_of
from app.live.hub import BEAT_EVERY_S, LOOK_EVERY_S, Hub, StreamLimits
from app.live.routes import live_routes
from app.live.schemas import LIVE
from app.live.state import read_state
from app.payments.receive import PaymentTerms
from app.payments.routes import payment_routes, stripe_routes
from app.payments.schemas import PAYMENTS
from app.ports.clock import Clock
from app.ports.ids import TimeOrderedIds
from app.ports.permits import Permits
from app.ports.randomness import Randomness, SystemRandomness
from app.pricing.cards import ensure_default_card
from app.pricing.routes import pricing_routes
from app.pricing.schemas import PRICING
from app.pricing.thresholds import CardThresholds
from app.receiving import REPORT_EVERY, Receiving
from app.schedule.alarms import Alarms
from app.schedule.jobs import Jobs
from app.sessions.routes import session_routes
from app.sessions.schemas import SESSIONS
from app.sessions.start import StartLimits, Starts
from app.sessions.tokens import WebhookTokens
from app.settings import BadSettings, Capability, Settings
from app.settlement.correction_routes import session_correction_routes
from app.settlement.ending import Endings
from app.settlement.leases import LEASE_MARGIN, Leases
from app.settlement.pull_routes import pull_routes
from app.settlement.reconciler import Reconciler
from app.settlement.routes import settlement_routes
from app.settlement.schemas import SETTLEMENT
from app.settlement.steps import ReconcileLimits
from app.timelines.raw import drop_old_bodies
from app.web.assembly import Parts
from app.web.everything import Everything
from app.what_if.routes import what_if_routes
from app.what_if.running import Simulations
from app.what_if.schemas import WHAT_IF
from app.what_if.simulations import purge_simulations

SLOWEST_WAKE: Final = Micros(US_PER_S)
"""Reconciliation looks for due sessions at least so often on our clock, and ten times in each of its intervals."""

FASTEST_WAKE_S: Final = 0.05
"""But no more often than this, in seconds of real time."""

SIMULATIONS_CHECK_S: Final = 1.0
SET_BACK_CHECK_S: Final = 60.0
DELIVERY_WAKE: Final = Micros(US_PER_S)
"""Events are dispatched, and due deliveries looked for, at least so often on our clock."""

PURGE_CHECK_S: Final = 60.0
PURGE_EVERY: Final = Micros(600 * US_PER_S)
PARTITION_CHECK_S: Final = 3600.0
PARTITION_DAYS: Final = 7
"""Partitions for heartbeats are made so many days ahead."""

RETENTION_CHECK_S: Final = 600.0
RETENTION_EVERY: Final = Micros(3600 * US_PER_S)

DESCRIBED: Final = (
    *(SESSIONS, SETTLEMENT, ACCOUNTS, LIVE, PAYMENTS, FINANCE, PRICING, WHAT_IF, EVENTS, ACCESS),
    *(HEARTBEATS, HEALTH, DOCUMENT),
)

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Service:
    """The whole service around one database and one provider; :attr:`app` is its ASGI application."""

    def __init__(
        self,
        settings: Settings,
        database_url: str,
        *,
        clock: Clock | None = None,
        randomness: Randomness | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        permits: Permits | None = None,
        sender: Sender | None = None,
        report_every: Micros = REPORT_EVERY,
        open_files: int | None = None,
    ) -> None:
        """Clock, randomness and the provider's budget are made from the settings where none is given.

        ``transport``: how the provider is reached, ``sender``: how events leave; null: over the network.
        ``report_every``: how often we say that we are receiving. ``open_files``: how many this process may have, if
        that is a limit; streams leave a part of them to all else.

        Raises :class:`~app.settings.BadSettings` where a setting is missing that serving needs.
        """
        self._clock = clock or settings.make_clock()
        randomness = randomness or SystemRandomness()
        ids = TimeOrderedIds(self._clock, randomness)
        secrets = [secret.get_secret_value() for secret in settings.secret]
        if not secrets or settings.gabber_api_key is None:
            raise BadSettings("TALKTIME_SECRET and TALKTIME_GABBER_API_KEY are required")
        self.database = Database(database_url)
        self.clock_watch = ClockWatch(self._clock, self.database)
        self.ledger = LedgerPorts(_ledger_keys(settings), ids, CardThresholds(settings.min_session_s))
        self._ids = ids
        self._randomness = randomness
        self._sealing = Sealing(KeyRing(secrets, Purpose.SEALING), randomness)
        self.user_tokens = UserTokens(KeyRing(secrets, Purpose.USER_TOKEN), randomness)
        self._key_use = KeyUse(self.database)
        self._issuer = None if (terms := _issuer_terms(settings)) is None else Issuer(terms, self._clock)
        admin_key = settings.bootstrap_admin_key
        self._authentication = Authentication(
            database=self.database,
            clock=self._clock,
            bootstrap_admin_key=None if admin_key is None else admin_key.get_secret_value(),
            user_tokens=self.user_tokens,
            issuer=self._issuer,
            key_use=self._key_use,
        )
        self.permits = permits = permits or ProviderBudget(self.database, self._clock, settings.provider_max_rps)
        try:
            gabber = self._provider(settings, settings.gabber_api_key, transport, permits)
        except ValueError as error:
            raise BadSettings(f"TALKTIME_GABBER_BASE_URL or TALKTIME_GABBER_API_KEY: {error}") from None
        self._gabber = gabber
        self.tokens = WebhookTokens(KeyRing(secrets, Purpose.WEBHOOK))
        self.starts = Starts(
            database=self.database,
            ledger=self.ledger,
            gabber=gabber,
            permits=permits,
            clock=self._clock,
            ids=ids,
            randomness=randomness,
            tokens=self.tokens,
            sealing=self._sealing.keys,
            limits=StartLimits(
                shortest=settings.min_session_s,
                longest=settings.max_session_s,
                provider_timeout=settings.provider_timeout_s,
                unconfirmed_ttl=settings.unconfirmed_ttl_s,
                reconcile_interval=settings.reconcile_interval_s,
                review_after=settings.review_after_s,
                webhook_base=settings.public_url + PATH,
            ),
        )
        self._report_every_s = max(FASTEST_WAKE_S, self._clock.real_seconds(report_every))
        self.receiving = Receiving(self.database, self._clock, ids, self._passes_in(self._report_every_s))
        lease = Micros(PULL_DEADLINE_TIMEOUTS * settings.provider_timeout_s + LEASE_MARGIN)
        limits = ReconcileLimits(
            reconcile_interval=settings.reconcile_interval_s,
            settle_delay=settings.settle_delay_s,
            unconfirmed_ttl=settings.unconfirmed_ttl_s,
            no_heartbeat_grace=settings.no_heartbeat_grace_s,
            evidence_wait=settings.evidence_wait_s,
            review_after=settings.review_after_s,
            rerate_window=settings.rerate_window_s,
            goodwill=Micros(settings.goodwill_days * US_PER_DAY),
        )
        self._leases = leases = Leases(
            self.database, self._clock, ids, lease, limits.longest_waits(settings.provider_timeout_s)
        )
        self.reconciler = Reconciler(
            database=self.database,
            ledger=self.ledger,
            gabber=gabber,
            permits=permits,
            leases=leases,
            clock=self._clock,
            randomness=randomness,
            receiving=self.receiving,
            limits=limits,
        )
        self._endings = Endings(database=self.database, ledger=self.ledger, gabber=gabber, clock=self._clock)
        self._writer = TickWriter(DurableStatements(self.database.conninfo))
        headers = headers_of(settings.public_url)
        heartbeats = HeartbeatEndpoint(
            tokens=self.tokens,
            writer=self._writer,
            bindings=Bindings(self.database, self.ledger, settings.reconcile_interval_s),
            clock=self._clock,
            randomness=randomness,
            meter=Meter(per_second(settings.webhook_max_rps, WEBHOOK_BURST_S), self._clock),
            headers=headers,
            clock_agrees=self.clock_watch.agrees,
            secrets=(settings.gabber_api_key.get_secret_value(),),
        )
        self.live = self._hub(settings, randomness, open_files)
        self._jobs = Jobs(self.database, self._clock, ids)
        self._simulations = Simulations(self.database, self._clock, ids, self._jobs)
        self._endpoints = EndpointPorts(
            ids=ids,
            randomness=randomness,
            keys=KeyRing(secrets, Purpose.ENDPOINT),
            private_ok=settings.events_allow_private_targets,
        )
        self.deliverer = Deliverer(
            database=self.database,
            clock=self._clock,
            ports=self._endpoints,
            sender=sender
            or NetworkSender(
                limit_s=self._clock.real_seconds(settings.events_timeout_s),
                private_ok=settings.events_allow_private_targets,
            ),
            limit=settings.events_timeout_s,
            clock_agrees=self.clock_watch.agrees,
        )
        self._deliveries_kept = Micros(settings.delivery_retention_days * US_PER_DAY)
        self._alarms = Alarms()
        self._reconcile_interval = settings.reconcile_interval_s
        self._retention = Micros(settings.tick_retention_days * US_PER_DAY)
        self._rounds: set[asyncio.Task[Any]] = set()
        failures = Meter(per_minute(settings.failed_auth_max_rpm), self._clock)
        self.pages = Everything(self._parts_of_pages(settings, failures))
        front = Front(
            heartbeats=heartbeats,
            heartbeat_path=PATH,
            api=self._build_api(settings, failures),
            pages=self.pages,
            proxies=settings.trusted_proxies,
            clock_agrees=self.clock_watch.agrees,
            origins=settings.cors_origins,
            headers=headers,
        )
        self.app: ASGIApp = RequestIds(front)

    def _provider(
        self, settings: Settings, key: SecretStr, transport: httpx.AsyncBaseTransport | None, permits: Permits
    ) -> Gabber:
        return Gabber(
            base_url=settings.gabber_base_url,
            api_key=key.get_secret_value(),
            timeout=settings.provider_timeout_s,
            clock=self._clock,
            transport=transport,
            capabilities=Capabilities(can_end=Capability.END in settings.gabber_capabilities),
            permits=permits,
        )

    def _hub(self, settings: Settings, randomness: Randomness, open_files: int | None) -> Hub:
        return Hub(
            database=self.database,
            clock=self._clock,
            randomness=randomness,
            read=partial(read_state, longest=settings.max_session_s, keys=self.ledger.keys),
            revoked=revoked_callers,
            clock_agrees=self.clock_watch.agrees,
            limits=StreamLimits(
                most=_streams(settings.live_max_streams, open_files),
                most_of_user=settings.live_max_streams_per_user,
                # A connection gets old in real time, however fast our clock runs.
                longest=self._passes_in(settings.live_max_stream_s / US_PER_S),
            ),
        )

    # HTTP

    def _parts_of_pages(self, settings: Settings, failures: Meter) -> Parts:
        return Parts(
            settings=settings,
            database=self.database,
            ledger=self.ledger,
            clock=self._clock,
            ids=self._ids,
            randomness=self._randomness,
            sealing=self._sealing,
            authentication=self._authentication,
            user_tokens=self.user_tokens,
            failures=failures,
            receiving=self.receiving,
            reconciler=self.reconciler,
            endings=self._endings,
            endpoints=self._endpoints,
            faults=self.faults,
            live=self.live,
            can_end=self._gabber.capabilities.can_end,
        )

    def _build_api(self, settings: Settings, failures: Meter) -> FastAPI:
        known = RateLimited(
            Identify(self._authentication),
            callers=Meter(per_second(settings.caller_max_rps, CALLER_BURST_S), self._clock),
            failures=failures,
        )
        called = [Depends(known), Depends(check_access), Depends(known_parameters)]
        # The framework's own document says nothing of answers, and its pages load scripts from elsewhere: ours do not.
        api = FastAPI(
            title="Talktime",
            version=__version__,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            redirect_slashes=False,  # every address has one spelling, and none is answered before the key is checked
        )
        for router in (
            session_routes(self.database, self.starts),
            settlement_routes(
                self.database,
                self.reconciler,
                self._endings,
                self.receiving,
                self._clock,
                self._ids,
                rerate_window=settings.rerate_window_s,
            ),
            pull_routes(self.database),
            session_correction_routes(
                self.database,
                self.ledger,
                self._clock,
                self.reconciler,
                goodwill=Micros(settings.goodwill_days * US_PER_DAY),
                rerate_window=settings.rerate_window_s,
            ),
            account_routes(self.database, self.ledger, self._clock, settings.max_session_s),
            correction_routes(self.database, self.ledger, self._clock),
            settings_routes(self.database, self.ledger, self._clock, settings.min_session_s),
            bulk_routes(self.database, self.ledger, self._clock),
            recurring_routes(self.database, self.ledger, self._clock),
            payment_routes(database=self.database, ledger=self.ledger, clock=self._clock),
            live_routes(self.live, self._clock),
            finance_routes(self.database, self._clock),
            # Before the routes of rate cards, which would take its addresses for those of cards.
            what_if_routes(self.database, self._ids, self._clock),
            pricing_routes(self.database, self._ids, self._clock),
            delivery_routes(database=self.database, ports=self._endpoints, clock=self._clock, sealing=self._sealing),
            access_routes(
                database=self.database,
                ids=self._ids,
                clock=self._clock,
                randomness=self._randomness,
                user_tokens=self.user_tokens,
                sealing=self._sealing,
                public_url=settings.public_url,
            ),
        ):
            api.include_router(router, dependencies=called)

        api.include_router(
            stripe_routes(
                database=self.database,
                ledger=self.ledger,
                clock=self._clock,
                secrets=tuple(secret.get_secret_value() for secret in settings.stripe_webhook_secrets),
                terms=PaymentTerms(settings.stripe_live, dict(settings.stripe_credits_per_minor_unit)),
                failures=failures,
            ),
            dependencies=[Depends(known_parameters)],
        )
        self._api = api
        add_document_routes(api, lambda: self.api_document)

        add_health_routes(api, self.faults)
        add_problem_handlers(api, known)
        check_declared(api.routes)
        return api

    @cached_property
    def api_document(self) -> dict[str, Any]:
        """The API for machines. :class:`~app.http.api_document.UndescribedCall` if it lacks a call that is there."""
        return api_document(self._api, __version__, DESCRIBED)

    async def faults(self) -> list[str]:
        """Why this process must not be given work now; empty if it may."""
        try:
            faults = await self.database.faults()
        except DatabaseUnfit:
            return ["the database holds no schema of ours, or one that is closed to the service's role"]
        except (DatabaseUnavailable, SQLAlchemyError):
            return ["the database cannot be reached"]
        if not self.clock_watch.agrees():
            faults.append("our clock and the database's disagree by more than a second")
        return faults

    # Life

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        await self.start()
        self.set_alarms()
        try:
            yield
        finally:
            await self.stop()

    async def start(self) -> None:
        """Prepare the database and begin to write heartbeats."""
        await self.clock_watch.check()
        await self.make_partitions()
        async with self.database.transaction() as transaction:
            await ensure_default_card(transaction, self._ids, self._clock.now())
        self._writer.start()
        await self.receiving.report()

    def set_alarms(self) -> None:
        """Wake reconciliation and upkeep from here on, but for times in which our clock is wrong."""
        wake = Micros(min(SLOWEST_WAKE, self._reconcile_interval // 10))
        wake_s = max(FASTEST_WAKE_S, self._clock.real_seconds(wake))
        for every_s, name, work in (
            (wake_s, "reconcile", self._reconcile_round),
            (wake_s, "due", self.post_due),
            (wake_s, "recurring", self.post_recurring),
            (max(FASTEST_WAKE_S, self._clock.real_seconds(DELIVERY_WAKE)), "deliveries", self.deliver),
            (self._report_every_s, "receiving", self.receiving.report),
            (WRITE_EVERY_S, "key-use", self._key_use.write),
            (SIMULATIONS_CHECK_S, "simulations", self.simulate),
            (SET_BACK_CHECK_S, "set-back", self.bring_nearer),
            (PURGE_CHECK_S, "purge", self.purge),
            (PARTITION_CHECK_S, "partitions", self.make_partitions),
            (RETENTION_CHECK_S, "retention", self.drop_old_ticks),
        ):
            self._alarms.every(every_s, name, partial(self.clock_watch.if_it_agrees, work))
        self._alarms.every(CHECK_EVERY_S, "clock", self.clock_watch.check)
        self._alarms.every(LOOK_EVERY_S, "live", self.live.look)
        self._alarms.every(BEAT_EVERY_S, "live-beat", self.live.beat)
        self._alarms.start()

    async def stop(self) -> None:
        """Finish what was begun: rounds under way, heartbeats taken but not written. Then close all connections."""
        self._alarms.stop()
        await self.live.stop()
        self._simulations.stop()
        await self.deliverer.stop()
        if self._rounds:
            await asyncio.wait(self._rounds)
        await self.reconciler.finish()
        await self._writer.close()
        if self.clock_watch.agrees():
            await self.receiving.report_the_end()
        await self._gabber.aclose()
        if self._issuer is not None:
            await self._issuer.aclose()
        with suppress(DatabaseUnavailable, SQLAlchemyError):
            await self._key_use.write()
        await self.database.close()

    async def _reconcile_round(self) -> None:
        await self._to_its_end(self.reconciler.fill(), "reconcile-round")

    async def deliver(self) -> None:
        """Dispatch new events, and begin to deliver what is due."""
        await self._to_its_end(self.deliverer.dispatch(), "dispatch")
        await self.deliverer.fill()

    async def simulate(self) -> bool:
        """Bring a simulation forward; whether it was this process's turn, and there was one."""
        return await self._to_its_end(self._simulations.work(), "simulate")

    async def _to_its_end(self, work: Coroutine[Any, Any, Result], name: str) -> Result:
        """Do ``work`` in a task that a stop waits for, where it would cut off the alarm that woke it."""
        task = asyncio.create_task(work, name=name)
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)
        return await asyncio.shield(task)

    def _passes_in(self, real_s: float) -> Micros:
        """How much passes on our clock in so much real time."""
        return Micros(round(real_s / self._clock.real_seconds(Micros(US_PER_S)) * US_PER_S))

    async def make_partitions(self) -> None:
        """Make the partitions in which heartbeats of the next days are kept."""
        await self.database.create_tick_partitions(datetime_of(self._clock.now()).date().isoformat(), PARTITION_DAYS)

    async def post_due(self) -> None:
        """Post what time has brought to accounts that nobody touches."""
        await self._jobs.run("post-due", SLOWEST_WAKE, lambda: post_due(self.database, self.ledger, self._clock.now()))

    async def post_recurring(self) -> None:
        """Give what is due of recurring grants."""

        async def work() -> int:
            return await post_recurring(self.database, self.ledger, self._clock.now())

        await self._jobs.run("recurring", SLOWEST_WAKE, work)

    async def bring_nearer(self) -> None:
        """Let no session wait for what a clock that was set back would bring too late."""
        nearer, freed = await self._leases.bring_nearer(), await self._leases.free_far()
        if nearer or freed:
            log.warning("clock.was_set_back", sessions=nearer, leases=freed)

    async def purge(self) -> None:
        """Forget answers, simulations and deliveries that were kept long enough; join when we were receiving."""

        async def work() -> None:
            await purge(self.database, self._clock.now())
            await purge_simulations(self.database, self._clock.now())
            await look_after(self.database, self._endpoints, self._clock.now(), self._deliveries_kept)
            await self.receiving.compact()

        await self._jobs.run("purge", PURGE_EVERY, work)

    async def drop_old_ticks(self) -> bool:
        """Drop heartbeats and raw answers that were kept long enough; whether it was this process's turn."""

        async def work() -> int:
            now = self._clock.now()
            dropped = await drop_old_ticks(self.database, now, self._retention)
            await drop_old_bodies(self.database, Instant(now - self._retention))
            return dropped

        return await self._jobs.run("retention", RETENTION_EVERY, work)

    async def reconcile(self, session: AccountThing) -> object:
        """Work on one session now."""
        return await self.reconciler.reconcile(session, now_please=True)


def _streams(wanted: int, open_files: int | None) -> int:
    """How many streams may be open: ``wanted``, but no more than leaves a quarter of the files to all else."""
    return wanted if open_files is None else min(wanted, open_files * 3 // 4)


def _issuer_terms(settings: Settings) -> IssuerTerms | None:
    if settings.user_token_issuer is None:
        return None
    return IssuerTerms(
        issuer=settings.user_token_issuer,
        audience=settings.user_token_audience,
        user_claim=settings.user_token_claim,
        secret=settings.user_token_secret,
        jwks_url=settings.user_token_jwks_url,
        max_ttl=settings.user_token_max_ttl_s,
    )


def _ledger_keys(settings: Settings) -> LedgerKeys:
    keys = ledger_keys_of(settings)
    if keys is None:
        raise BadSettings("TALKTIME_LEDGER_KEYS: is required with a database of your own")
    return keys
