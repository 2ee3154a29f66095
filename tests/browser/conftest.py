"""A real browser before the real service: in a process of its own, because the browser's driver keeps a loop running.

``make browser`` runs it. The browser is Debian's ``chromium``; every request that would leave this machine is aborted,
and a test fails if there was one, or if the page wrote an error to its console.
"""

import asyncio
import os
import re
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, Route, expect, sync_playwright

from tests.support.furnished import Furnished, furnish
from tests.support.postgres import WorkerDatabases
from tests.support.scripted_provider import ProviderHost, provider_host
from tests.support.world import ADMIN_KEY, World, world

Result = TypeVar("Result")

CHROMIUM: Final = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
WIDE: Final = {"width": 1280, "height": 900}
NARROW: Final = {"width": 390, "height": 844}
"""A phone."""

AXE: Final = (Path(__file__).parents[1] / "vendor" / "axe.min.js").read_text(encoding="utf-8")
PATIENCE_MS: Final = 20_000
"""A machine that has other work as well is slow, and no test is about how fast a browser is."""


@dataclass
class Stage:
    """A furnished world that a browser can reach at ``url``."""

    world: World
    found: Furnished
    url: str
    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Awaitable[Result]) -> Result:
        """Do something in the world's own loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(_awaited(coroutine), self.loop).result(60)


async def _awaited(coroutine: Awaitable[Result]) -> Result:
    return await coroutine


@pytest.fixture(scope="session")
def providers() -> Iterator[ProviderHost]:
    with provider_host() as host:
        yield host


@pytest.fixture(scope="module")
def stage(databases: WorkerDatabases, providers: ProviderHost) -> Iterator[Stage]:
    """Of each module its own, so that what one does to it surprises no other."""
    with databases.fresh() as urls, staged(urls.service, providers) as made:
        yield made


@contextmanager
def staged(url: str, providers: ProviderHost) -> Iterator[Stage]:
    """The world in a thread of its own, with a server before it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stage")
    thread.start()
    listener = socket.create_server(("127.0.0.1", 0))
    stack = AsyncExitStack()

    def run(coroutine: Awaitable[Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(_awaited(coroutine), loop).result(120)

    async def open_stage() -> tuple[World, Furnished]:
        made = await stack.enter_async_context(world(url, providers.script()))
        found = await furnish(made)
        config = uvicorn.Config(made.service.app, lifespan="off", log_config=None, proxy_headers=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))

        async def close() -> None:
            server.should_exit = True
            await serving

        stack.push_async_callback(close)
        return made, found

    try:
        made, found = run(open_stage())
        yield Stage(made, found, f"http://127.0.0.1:{listener.getsockname()[1]}", loop)
    finally:
        try:
            run(stack.aclose())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(f"there is no browser at {CHROMIUM}: install Debian's package chromium, or set CHROMIUM")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def visitor(browser: Browser, stage: Stage) -> Iterator[Callable[..., Page]]:
    """A new person at a browser of his own: ``visitor()``, or ``visitor(viewport=NARROW, color_scheme="dark")``."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def come(**options: Any) -> Page:
        context = browser.new_context(base_url=stage.url, **{"viewport": WIDE, **options})
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)

        def stay_here(route: Route) -> None:
            if route.request.url.startswith((stage.url, "data:", "blob:")):
                route.continue_()
            else:
                faults.append(f"a request left the host: {route.request.url}")
                route.abort()

        context.route("**/*", stay_here)
        page = context.new_page()
        page.on("console", lambda message: faults.extend(_fault(message)))
        page.on("pageerror", lambda error: faults.append(f"a script broke: {error}"))

        def dismiss(dialog: Dialog) -> None:
            faults.append(f"a dialog: {dialog.message}")
            dialog.dismiss()

        page.on("dialog", dismiss)
        return page

    yield come
    for context in contexts:
        context.close()
    assert faults == []


def _fault(message: ConsoleMessage) -> list[str]:
    """What a browser complains of; that an answer was a refusal is no fault of the page."""
    refused = re.match(r"Failed to load resource: the server responded with a status of (4|502|503)", message.text)
    # A stream that the server cut, as a test wanted it to.
    cut = message.text.startswith("Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    # A request that another one has replaced.
    replaced = message.text.startswith(("htmx:sendAbort", "htmx:afterRequest"))
    return [] if message.type != "error" or refused or replaced or cut else [f"console: {message.text}"]


@pytest.fixture
def admin(visitor: Callable[..., Page]) -> Page:
    """Someone who has signed in with the admin key."""
    return sign_in(visitor())


def sign_in(page: Page) -> Page:
    page.goto("/admin/sign-in")
    page.get_by_text("Use an admin key instead").click()
    page.get_by_label("Admin key").fill(ADMIN_KEY)
    page.get_by_role("button", name="Sign in with the key").click()
    page.wait_for_url("**/admin")
    return page


def violations(page: Page) -> list[str]:
    """What axe finds that is serious or critical, where, and what to read about it."""
    # By the driver's own channel, which the page's policy against scripts does not bind.
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']}: {one['help']} at {node['target']}: {node['html'][:200]}"
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
        for node in one["nodes"]
    ]
