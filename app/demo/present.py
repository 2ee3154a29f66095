"""The demonstration's present: the same people go on talking, in real time."""

from typing import Final

import httpx

from app.core.units import US_PER_S, Micros
from app.demo.customers import Customers, begin_body, buy_if_low
from app.demo.people import PEOPLE, TOPICS
from app.demo.plan import APPS
from app.demo.processes import DemoFailed
from app.ports.clock import Clock
from app.ports.randomness import Randomness

EVERY_S: Final = (15, 55)
"""A session begins after so many seconds."""


async def go_on(customers: Customers, clock: Clock, randomness: Randomness, orders: int) -> None:
    """Begin sessions now and then, for ever. ``orders``: the number of the first order that is still free.

    What the service refuses, or cannot answer, is let be: somebody looks at it right now, and may stop all starts.
    """
    everybody = [person for person in PEOPLE if person.until == 0]
    while True:
        shortest, longest = EVERY_S
        await clock.sleep(Micros((shortest + randomness.below(longest - shortest)) * US_PER_S))
        person = everybody[randomness.below(len(everybody))]
        scenario = person.topics[randomness.below(len(person.topics))]
        app = APPS[randomness.below(len(APPS))]
        body = begin_body(person.user_id, TOPICS[scenario].persona, scenario, person.asks_s, app)
        try:
            orders += await buy_if_low(customers, person, clock.now(), orders)
            await customers.call("backend", "POST", "/v1/sessions", body)
        except (httpx.HTTPError, DemoFailed):
            continue
