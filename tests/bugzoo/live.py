"""Bugs in what streams tell, and to whom."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run

BUGS: Final = (
    Bug(
        name="slow-transaction-passed-by",
        does="a look takes what was not committed when the last one was made, and had begun by then, for seen",
        patches=(
            Patch(
                "app.live.changes",
                "return or_(later, by.in_(mark.open)) if mark.open else later",
                "return later",
            ),
        ),
        found_by=Run(
            Layer.INTEGRATION,
            only=("test_live.py::test_a_transaction_that_began_before_others_and_ends_after_them_is_not_missed",),
        ),
    ),
    Bug(
        name="change-lost-with-the-database",
        does="a user whose change was found is forgotten if the database goes away before he is read",
        patches=(
            Patch(
                "app.live.hub",
                "                self._changed.add(feed.account_id)\n                gone = outcome",
                "                gone = outcome",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_live.py::test_what_cannot_be_read_is_read_later",)),
    ),
    Bug(
        name="stream-outlives-its-token",
        does="a stream goes on for as long as any may, whatever its token says",
        patches=(
            Patch(
                "app.live.hub",
                "if caller.expires_at is not None and caller.expires_at <= ends_at:",
                "if caller.expires_at is not None and caller.expires_at <= now:",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_live.py::test_a_token_that_expires_ends_its_stream",)),
    ),
)
