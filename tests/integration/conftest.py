from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import World, world


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


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
