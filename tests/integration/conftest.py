from collections.abc import AsyncIterator, Iterator

import pytest

from app.db.embedded.roles import SERVICE
from app.db.migrate import migrate
from tests.support.invariants import assert_all_invariants
from tests.support.postgres import WorkerDatabases, worker_databases
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import World, world


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
async def world_of_the_module(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    async with world(databases.urls.service, providers.script()) as found:
        yield found


@pytest.fixture
async def talktime(world_of_the_module: World) -> World:
    """The service on the worker's database, with its own provider and a clock that stands still.

    One service for all tests of a module, as building it takes longer than most of them.
    """
    world_of_the_module.renew()
    return world_of_the_module
