"""Bugs on an event's way to endpoints."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run

BUGS: Final = (
    Bug(
        name="late-event-passed-by",
        does="the mark up to which an account's events are dispatched moves over events that were not seen",
        patches=(
            Patch(
                "app.deliveries.dispatch",
                ".values(dispatched_seq=moved.c.mark)",
                ".values(dispatched_seq=table.c.event_seq)",
            ),
        ),
        found_by=Run(Layer.TURNSTILE, only=("grant/dispatch",)),
    ),
    Bug(
        name="delivery-without-fencing",
        does="a worker whose delivery was asked for anew, or taken by another, writes what came of it all the same",
        patches=(
            Patch(
                "app.deliveries.queue",
                """\
        deliveries.c.endpoint_id == bindparam("whose"),
        deliveries.c.lease_token == bindparam("ours"),
    )
    return (
""",
                """\
        deliveries.c.endpoint_id == bindparam("whose"),
    )
    return (
""",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_deliveries.py::test_what_is_asked_for_anew_is_sent_after_that",)),
    ),
    Bug(
        name="delivery-leased-for-ever",
        does="what a process had leased when it died is taken up by nobody",
        patches=(
            Patch(
                "app.deliveries.queue",
                "deliveries.c.lease_until < now, deliveries.c.lease_until > longest",
                "now < now, deliveries.c.lease_until > longest",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_deliveries.py::test_a_worker_that_died_is_followed_by_another",)),
    ),
    Bug(
        name="event-under-another-id",
        does="each attempt bears an id of its own, so that nobody can know what came before",
        patches=(
            Patch(
                "app.deliveries.worker",
                "signed_headers(secrets, event_id(*leased.key), now, body)",
                'signed_headers(secrets, f"{event_id(*leased.key)}.{leased.attempts}", now, body)',
            ),
        ),
        found_by=Run(
            Layer.INTEGRATION,
            only=("test_deliveries.py::test_a_failure_is_tried_again_under_the_same_id_over_days",),
        ),
    ),
    Bug(
        name="gone-is-tried-again",
        does="an endpoint that answers 410 is called for days",
        patches=(
            Patch(
                "app.core.delivery",
                """\
    if status == GONE:
        return EndpointGone()
""",
                "",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_delivery_rules.py",)),
    ),
    Bug(
        name="one-good-address-will-do",
        does="a name that leads outside and inside is called where it leads outside",
        patches=(
            Patch(
                "app.deliveries.guard",
                "return [self._checked(address) for address in addresses]",
                "return [one for one in addresses if one and judge(one, private_ok=self._private_ok) is None]",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_ssrf.py::test_all_addresses_of_a_name_must_be_allowed",)),
    ),
    Bug(
        name="connected-by-name",
        does="a name is checked, and then connected to by its name, which may lead elsewhere by then",
        patches=(Patch("app.deliveries.guard", "stream = await reach(str(address))", "stream = await reach(host)"),),
        found_by=Run(Layer.INTEGRATION, only=("test_ssrf.py::test_one_look_up_serves_one_connection",)),
    ),
    Bug(
        name="secret-ends-at-once",
        does="after a rotation the secret of before signs nothing, whatever overlap was asked for",
        patches=(Patch("app.deliveries.secrets", "return valid([new, *ending], now)[:MOST_SECRETS]", "return [new]"),),
        found_by=Run(Layer.UNIT, only=("test_delivery_rules.py",)),
    ),
)
