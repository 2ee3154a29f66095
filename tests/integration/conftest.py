from collections.abc import AsyncIterator, Iterator

import pytest

from app.db.embedded.roles import SERVICE
from app.db.migrate import migrate
from tests.support.invariants import assert_all_invariants
from tests.support.postgres import WorkerDatabases, worker_databases
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import World, world


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def databases(testrun_uid: str, worker_id: str) -> Iterator[WorkerDatabases]:
    def migrate_as_owner(owner_url: str) -> None:
        migrate(owner_url, SERVICE)

    with worker_databases(migrate_as_owner, run_id=testrun_uid, worker=worker_id) as found:
        yield found
        assert_all_invariants(found.urls.service)


@pytest.fixture(scope="session")
def providers() -> Iterator[ProviderHost]:
    with provider_host() as host:
        yield host


@pytest.fixture
async def talktime(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    """The service on the worker's database, with its own provider and a clock that stands still."""
    async with world(databases.urls.service, providers.script()) as found:
        yield found
