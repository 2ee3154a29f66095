"""Of an alarm's failures each kind is told at once, and once a minute from then on, with a count."""

from app.schedule.failures import REPEAT_S, Failures

STEP_S = 0.1


def told(failures: Failures, error: Exception, start: float, times: int) -> list[tuple[int, int]]:
    """Fail ten times a second; what was told, and which times."""
    found = [(n, failures.untold(error, start + n * STEP_S)) for n in range(times)]
    return [(n, count) for n, count in found if count is not None]


def test_ten_failures_a_second_are_one_line_a_minute() -> None:
    assert told(Failures(), ValueError("down"), 1_000, 1_801) == [(0, 0), (600, 599), (1_200, 599), (1_800, 599)]


def test_another_message_or_type_is_another_failure() -> None:
    failures = Failures()
    for n in range(600):
        now = 5 + n * STEP_S
        for error in (ValueError("a"), ValueError("b"), OSError("a")):
            assert (failures.untold(error, now) is not None) == (n == 0)


def test_what_comes_again_after_a_while_is_told_again() -> None:
    failures = Failures()
    assert told(failures, ValueError("x"), 0, 11) == [(0, 0)]
    assert told(failures, ValueError("x"), 1 + REPEAT_S, 1) == [(0, 10)]
    assert told(failures, ValueError("x"), 10 * REPEAT_S, 1) == [(0, 0)]


def test_a_kind_that_goes_on_keeps_its_count_whatever_else_is_told() -> None:
    failures = Failures()
    assert told(failures, ValueError("x"), 0, 600) == [(0, 0)]
    assert told(failures, ValueError("y"), REPEAT_S, 1) == [(0, 0)]
    assert told(failures, ValueError("x"), REPEAT_S, 1) == [(0, 599)]


def test_messages_without_end_do_not_fill_the_memory() -> None:
    failures = Failures()
    for n in range(10_000):
        assert failures.untold(ValueError(str(n)), n * REPEAT_S / 10) == 0
    assert len(failures._told) <= 20
