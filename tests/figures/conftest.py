from collections.abc import Iterator

import pytest

from tests.support.scripted_provider import ProviderHost, provider_host


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The loop that ``talktime serve`` runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def providers() -> Iterator[ProviderHost]:
    with provider_host() as host:
        yield host
