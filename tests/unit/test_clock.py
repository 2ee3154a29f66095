"""The clock of a process: it follows the database's, and never runs backwards once it was."""

from app.core.units import US_PER_S, Micros
from app.ports.clock import SystemClock

HOUR = Micros(3600 * US_PER_S)


def test_a_clock_that_was_ahead_at_the_start_goes_on_from_the_right_time() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.set_anew(Micros(-HOUR))
    after = clock.now()
    assert before - HOUR <= after < before - HOUR + 60 * US_PER_S


def test_later_a_move_back_is_time_standing_still() -> None:
    clock = SystemClock()
    before = clock.now()
    clock.adjust(Micros(-HOUR))
    assert clock.now() == before
