"""Bugs in the Python client."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run

BUGS: Final = (
    Bug(
        name="key-drawn-per-attempt",
        does="the client sends each attempt of a write under a key of its own, so that a lost answer counts twice",
        patches=(
            Patch(
                "talktime.transport",
                """\
        self._course.begin()
""",
                """\
        self._course.begin()
        if self._call.key is not None:
            self.headers["Idempotency-Key"] = f"{self._call.key}.{self._course.attempts}"
""",
            ),
        ),
        found_by=Run(
            Layer.UNIT,
            only=(
                "test_client_retries.py::test_what_nobody_answered_or_who_says_later_is_asked_again_under_the_same_key",
            ),
        ),
    ),
    Bug(
        name="refused-start-tried-again",
        does="the client takes every 502 and 504 for a gateway's and tries again what the provider has refused",
        patches=(
            Patch(
                "talktime.calls",
                "        return failure.code in RETRIED\n",
                "        return failure.code in RETRIED or failure.status in RETRIED_STATUSES\n",
            ),
        ),
        found_by=Run(
            Layer.UNIT, only=("test_client_retries.py::test_an_answer_that_says_what_became_of_it_is_the_last",)
        ),
    ),
    Bug(
        name="credits-through-a-float",
        does="the client reads amounts as binary fractions on their way",
        patches=(
            Patch(
                "talktime.values", "            found = Decimal(value)\n", "            found = Decimal(float(value))\n"
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_client_values.py::test_what_a_later_version_adds_is_passed_over",)),
    ),
    Bug(
        name="recorded-event-taken",
        does="the client takes an event whatever its time, so that somebody can send again what he has recorded",
        patches=(
            Patch(
                "talktime.webhooks",
                " - int(at)) > tolerance_s:",
                " - int(at)) > tolerance_s * 1_000_000:",
            ),
        ),
        found_by=Run(Layer.UNIT, only=("test_client_webhooks.py::test_what_was_recorded_is_too_old_later",)),
    ),
)
