"""Every page against an empty one: ``python -m benchmarks.pages`` prints all of them, ``make bench`` the dearest."""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
from sqlalchemy import make_url

from app.db.embedded import EmbeddedPostgres
from app.db.migrate import migrate
from benchmarks.figures import Figure
from tests.browser.examples import EXAMPLES, PORTAL
from tests.support.furnished import furnish
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import ADMIN_KEY, PUBLIC_URL, world

ROUNDS = 7
AT_ONCE = 10
"""Requests for one page in a round."""

EMPTY = "/admin/nothing"
"""The page that says that there is none: whoever asks is looked up, and it has the frame that all pages have."""

FILES = ("evidence.zip", "/replay")
"""No pages: all evidence of a session packed into a file, and its charge made again."""


def measure() -> Figure:
    """The dearest page against an empty one, in requests a second, in turn."""
    dearest, ours, theirs, pages = _all()[0]
    return Figure(
        what=f"the dearest of the pages, {dearest}",
        against="an empty page of the same frame",
        unit="a second",
        ours=ours,
        theirs=theirs,
        checked=f"{pages} pages, each answered with 200 and its own content",
    )


Measured = tuple[str, list[float], list[float], int]


def _all() -> list[Measured]:
    """Each page, dearest first: its own speed and the empty one's, in turn, and how many pages there are."""
    with tempfile.TemporaryDirectory() as folder, provider_host() as providers:
        Path(folder).chmod(0o755)  # as root the server runs as another account
        server = EmbeddedPostgres(Path(folder) / "data")
        urls = server.start()
        try:
            migrate(urls.owner, make_url(urls.service).username)
            measured = asyncio.run(_measured(urls.service, providers))
        finally:
            server.stop()
    return sorted(measured, key=lambda one: median(one[1]) / median(one[2]))


async def _measured(url: str, providers: ProviderHost) -> list[Measured]:
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with world(url, providers.script()) as talktime:
        found = await furnish(talktime)
        link = await talktime.client.post(f"/v1/users/{found.user}/portal-links", json={"ttl_s": 86_400})
        transport = httpx.ASGITransport(app=talktime.service.app)
        async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL, headers=headers) as client:
            await client.post("/admin/sign-in", data={"key": ADMIN_KEY})
            await client.get(link.json()["url"])
            addresses = {
                path: address(found)
                for path, address in {**EXAMPLES, **PORTAL}.items()
                if not path.endswith(FILES) and path != "/admin/find"
            }
            return [(path, *(await _in_turn(client, address)), len(addresses)) for path, address in addresses.items()]


async def _in_turn(client: httpx.AsyncClient, address: str) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    theirs: list[float] = []
    await _speed(client, address, 200)  # what is compiled once is no part of it
    for _ in range(ROUNDS):
        theirs.append(await _speed(client, EMPTY, 404))
        ours.append(await _speed(client, address, 200))
    return ours, theirs


async def _speed(client: httpx.AsyncClient, address: str, status: int) -> float:
    began = time.perf_counter()
    for _ in range(AT_ONCE):
        response = await client.get(address)
        if response.status_code != status:
            raise AssertionError(f"{address}: {response.status_code}")
    return AT_ONCE / (time.perf_counter() - began)


if __name__ == "__main__":
    for path, ours, theirs, _ in _all():
        print(f"{median(theirs) / median(ours):6.1f} × an empty page  {1_000 / median(ours):7.1f} ms  {path}")
