from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import World, world


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def providers() -> Iterator[ProviderHost]:
    with provider_host() as host:
        yield host


@pytest.fixture
async def talktime(databases: WorkerDatabases, providers: ProviderHost) -> AsyncIterator[World]:
    """The service on the worker's database, with its own provider and a clock that stands still."""
    async with world(databases.urls.service, providers.script()) as found:
        yield found
