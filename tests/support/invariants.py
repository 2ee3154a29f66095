"""Everything that must hold of what tests left in a database, checked as ``talktime verify`` does."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from app.db.database import Database
from app.ledger.findings import Finding
from app.ledger.keys import LedgerKeys
from app.ledger.verify import verify

VERIFY_TIMEOUT_MS = 600_000
LEDGER_KEYS = LedgerKeys([b"test-ledger-key-0123456789"])
"""The key of :func:`tests.support.world.world`."""


async def findings(service_url: str, keys: LedgerKeys | None = LEDGER_KEYS) -> list[Finding]:
    """What ``talktime verify`` finds in a database."""
    database = Database(service_url, pool_size=1)
    try:
        # As the command does: after a long run on a busy machine a check may take longer than a request may.
        async with database.reading(statement_timeout_ms=VERIFY_TIMEOUT_MS) as transaction:
            return (await verify(transaction, keys)).all
    finally:
        await database.close()


def assert_all_invariants(service_url: str) -> None:
    """Fail with every row that breaks a promise."""
    # In a thread of its own: the browser's driver keeps a loop running in the main one.
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(lambda: asyncio.run(findings(service_url))).result()
    assert not found, "the tests left what does not hold:\n" + "\n".join(
        f"  {item.check}: account {item.account_id}, {item.row}: {item.detail}" for item in found
    )
