"""Every page there is, put together from what the service is made of."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from app.access.authentication import Authentication
from app.access.sign_ins import SignIns
from app.access.user_tokens import UserTokens
from app.core.units import US_PER_DAY, Micros
from app.db.database import Database
from app.deliveries.endpoints import EndpointPorts
from app.http.rate_limits import Meter, per_minute
from app.http.sealing import Sealing
from app.ledger.book import LedgerPorts
from app.live.hub import Hub
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.ports.randomness import Randomness
from app.receiving import Receiving
from app.settings import Settings
from app.settlement.ending import Endings
from app.settlement.reconciler import Reconciler
from app.web.access_pages import AccessPages, ChangeAdmin, CreateAdmin, CreateKey, NewPassword, RevokeKey
from app.web.account_actions import Adjust, Alerts, Grant, Limits, PortalLink, Token, Void
from app.web.actions import Action, Actions
from app.web.assets import Assets
from app.web.endpoints import EndpointPages, endpoint_actions
from app.web.events import EventPages
from app.web.overview import Overview
from app.web.payments import PaymentPages, Resolve
from app.web.portal import Portal
from app.web.rate_cards import Publish, RateCardPages
from app.web.rendering import Renderer
from app.web.reviews import ReviewPages
from app.web.session_actions import AskingPages, Decide, Refund, Rerate, Terms
from app.web.sessions import SessionPages
from app.web.sign_in import SignInPages
from app.web.site import Site
from app.web.system import Stop, SystemPages
from app.web.users import UserPages
from app.web.what_if import Simulate, WhatIfPages

PASSWORD_GUESSES_PER_MINUTE: Final = 10
"""Wrong passwords that may be tried with one name, from wherever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What pages are made of. ``failures``: how often an address may be wrong, here and at the API together.

    ``faults``: why the process must not be given work; ``can_end``: whether the provider can end a session.
    """

    settings: Settings
    database: Database
    ledger: LedgerPorts
    clock: Clock
    ids: Ids
    randomness: Randomness
    sealing: Sealing
    authentication: Authentication
    user_tokens: UserTokens
    failures: Meter
    receiving: Receiving
    reconciler: Reconciler
    endings: Endings
    endpoints: EndpointPorts
    faults: Callable[[], Awaitable[list[str]]]
    live: Hub
    can_end: bool

    @property
    def secure(self) -> bool:
        """Whether the service is reached by https."""
        return self.settings.public_url.startswith("https://")


def assemble(parts: Parts) -> tuple[Site, Portal]:
    """The admin's pages and the user's."""
    assets = Assets()
    renderer = Renderer(assets)
    return _site(parts, renderer, assets), _portal(parts, renderer)


def _portal(parts: Parts, renderer: Renderer) -> Portal:
    settings = parts.settings
    return Portal(
        database=parts.database,
        clock=parts.clock,
        authentication=parts.authentication,
        receiving=parts.receiving,
        ledger_keys=parts.ledger.keys,
        renderer=renderer,
        live=parts.live,
        failures=parts.failures,
        longest=settings.max_session_s,
        rerate_window=settings.rerate_window_s,
        secure=parts.secure,
        framed_by=settings.portal_frame_origins,
    )


def _site(parts: Parts, renderer: Renderer, assets: Assets) -> Site:
    settings, database, ledger = parts.settings, parts.database, parts.ledger
    sign_ins = SignIns(
        database=database,
        clock=parts.clock,
        ids=parts.ids,
        randomness=parts.randomness,
        authentication=parts.authentication,
    )
    site = Site(sign_ins=sign_ins, clock=parts.clock, renderer=renderer, assets=assets, secure=parts.secure)
    guesses = Meter(per_minute(PASSWORD_GUESSES_PER_MINUTE), parts.clock)
    window = settings.rerate_window_s
    publish, simulate = Publish(database, parts.ids), Simulate(parts.ids)
    for pages in (
        SignInPages(sign_ins, parts.failures, guesses),
        Overview(database, parts.clock),
        UserPages(database=database, ledger=ledger, longest=settings.max_session_s),
        SessionPages(
            database=database,
            receiving=parts.receiving,
            ledger_keys=ledger.keys,
            rerate_window=window,
            can_end=parts.can_end,
        ),
        ReviewPages(database=database, receiving=parts.receiving, rerate_window=window),
        AskingPages(
            database=database,
            ledger=ledger,
            clock=parts.clock,
            reconciler=parts.reconciler,
            endings=parts.endings,
        ),
        PaymentPages(database=database),
        EventPages(database=database),
        AccessPages(database=database),
        SystemPages(database=database, settings=settings, faults=parts.faults),
        RateCardPages(database=database),
        publish,
    ):
        site.add(pages.pages())
    actions = Actions(database, parts.sealing)
    of_accounts = (*_account_actions(parts), *_session_actions(parts))
    for action in (*of_accounts, *_access_actions(parts, sign_ins), *endpoint_actions(parts.endpoints)):
        site.add(actions.pages(action))
    site.add(actions.pages(publish))
    site.add(actions.pages(simulate))
    # Behind the forms, whose addresses would else be taken for a simulation's, and an endpoint's.
    site.add(WhatIfPages(database=database).pages())
    site.add(EndpointPages(database=database).pages())
    return site


def _account_actions(parts: Parts) -> tuple[Action[Any], ...]:
    ledger, shortest = parts.ledger, parts.settings.min_session_s
    return (
        Grant(ledger),
        Adjust(ledger),
        Void(ledger),
        Limits(ledger, shortest),
        Alerts(ledger, shortest),
        PortalLink(ledger, parts.user_tokens, parts.settings.public_url),
        Token(ledger, parts.user_tokens),
        Resolve(ledger),
    )


def _session_actions(parts: Parts) -> tuple[Action[Any], ...]:
    settings = parts.settings
    terms = Terms(goodwill=Micros(settings.goodwill_days * US_PER_DAY), rerate_window=settings.rerate_window_s)
    return Decide(parts.ledger, terms, parts.reconciler), Refund(parts.ledger, terms), Rerate(parts.ledger, terms)


def _access_actions(parts: Parts, sign_ins: SignIns) -> tuple[Action[Any], ...]:
    ids, randomness = parts.ids, parts.randomness
    return (
        CreateKey(ids, randomness),
        RevokeKey(ids),
        CreateAdmin(ids, randomness, sign_ins.passwords),
        NewPassword(ids, randomness, sign_ins.passwords),
        ChangeAdmin(ids),
        Stop(ids),
    )
