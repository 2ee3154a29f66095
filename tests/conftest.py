"""What every kind of test may use: the worker's database."""

from collections.abc import Iterator

import pytest

from app.db.embedded.roles import SERVICE
from app.db.migrate import migrate
from tests.support.invariants import assert_all_invariants
from tests.support.postgres import WorkerDatabases, worker_databases


@pytest.fixture(scope="session")
def databases(testrun_uid: str, worker_id: str) -> Iterator[WorkerDatabases]:
    """The worker's databases; at the end, all that the tests left in its own one must add up."""

    def migrate_as_owner(owner_url: str) -> None:
        migrate(owner_url, SERVICE)

    with worker_databases(migrate_as_owner, run_id=testrun_uid, worker=worker_id) as found:
        yield found
        assert_all_invariants(found.urls.service)
