"""What a type checker knows of the client. `make check` reads this file; running it only shows that the names exist.

A line that must be refused bears the error that is expected: where it is not refused any more, the comment is unused,
and that fails the check.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from decimal import Decimal
from typing import assert_type

from talktime import models, parts, problems, webhooks
from talktime.client import AsyncLines, AsyncListing, AsyncTalktime, Lines, Listing, Talktime


def answers_have_types(client: Talktime, now: datetime) -> None:
    started = client.start_session(user_id="ada", persona="tutor", scenario="guide", time_limit_s=Decimal("30.5"))
    assert_type(started, models.StartedSession)
    assert_type(started.session.charged, Decimal | None)
    assert_type(started.session.requested_at, datetime)
    assert_type(started.connection_details, models.ConnectionDetails | None)
    assert_type(client.entries("ada", kind="charge", after=now), Listing[models.Entry])
    assert_type(next(iter(client.entries("ada"))).amount, Decimal)
    assert_type(client.entries_csv("ada"), AbstractContextManager[Lines])
    assert_type(client.charge_svg("ses_1"), str)
    assert_type(client.pull_body("ses_1", "00"), bytes)
    assert_type(client.charge("ses_1").envelopes, tuple[tuple[Decimal, Decimal], ...])
    card: parts.RateCardTerms = {"name": "mine", "rates": {"user": 1, "agent": "2.5", "silence": Decimal(0)}}
    assert_type(client.simulate(rate_card=card, after=now, before=now), models.Simulation)


async def answers_of_the_other_client_too(client: AsyncTalktime) -> None:
    assert_type(await client.grant("ada", amount=100), models.Grant)
    assert_type(client.grants("ada"), AsyncListing[models.Grant])
    assert_type([one.remaining async for one in client.grants("ada")], list[Decimal])
    assert_type(client.entries_csv("ada"), AbstractAsyncContextManager[AsyncLines])


def problems_have_members(error: problems.InsufficientCredits, other: problems.ProviderRefused) -> None:
    assert_type(error.available, Decimal)
    assert_type(error.idempotency_key, str | None)
    assert_type(other.provider_status, int | None)


def events_are_told_apart(event: models.Event) -> Decimal | None:
    match event:
        case webhooks.SessionEvent():
            return assert_type(event.charged, Decimal | None)
        case _:
            return None


def slips_are_found(client: Talktime, names: Sequence[str]) -> None:
    client.grant("ada", amount=12.5)  # type: ignore[arg-type]
    client.grant("ada", "100")  # type: ignore[call-arg]
    client.grant("ada", amount=1, kind="bought")  # type: ignore[arg-type]
    client.grant("ada", amount=1, expires="tomorrow")  # type: ignore[call-arg]
    client.grant("ada", amount=1, expires_at="2026-01-31")  # type: ignore[arg-type]
    client.start_session(user_id="ada", persona="tutor")  # type: ignore[call-arg]
    client.balance("ada").avaliable  # type: ignore[attr-defined]  # noqa: B018
    client.entries("ada", kind="fee")  # type: ignore[arg-type]
    client.balance("ada").balance = Decimal(1)  # type: ignore[misc]


def test_these_names_exist() -> None:
    assert issubclass(webhooks.SessionEvent, models.Event)
    assert Talktime.grant.__doc__ == AsyncTalktime.grant.__doc__
