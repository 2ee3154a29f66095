"""All planted bugs."""

from typing import Final

from tests.bugzoo import access, charging, client, events, ledger, live, sessions, top_ups
from tests.bugzoo.bug import Bug

BUGS: Final[tuple[Bug, ...]] = (
    *charging.BUGS,
    *ledger.BUGS,
    *sessions.BUGS,
    *access.BUGS,
    *events.BUGS,
    *client.BUGS,
    *live.BUGS,
    *top_ups.BUGS,
)


class NoSuchBug(Exception):
    """No planted bug has this name."""


def bug_named(name: str) -> Bug:
    for bug in BUGS:
        if bug.name == name:
            return bug
    raise NoSuchBug(f"there is no bug {name}; there are {', '.join(bug.name for bug in BUGS)}")
