"""What commands tell while they work."""

from io import StringIO

import pytest
from rich.console import Console

from app.terminal import told_progress


@pytest.mark.parametrize("shown", [True, False])
def test_progress_is_shown_only_where_it_is_wanted(shown: bool) -> None:
    stream = StringIO()
    with told_progress(Console(file=stream, force_terminal=True, width=120), shown=shown) as tell:
        tell("entries", 500, 2000)
        tell("entries", 2000, 2000)
        tell("grants", 7, 7)
    told = stream.getvalue()
    assert ("2000/2000" in told, "grants" in told) == (shown, shown)
    assert (told == "") != shown
