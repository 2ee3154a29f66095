"""``make screenshots``: what each page looks like, for people who look."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.browse_portal import link
from tests.browser.conftest import NARROW, WIDE, Stage, sign_in
from tests.browser.examples import EXAMPLES, PIECES, PORTAL

FOLDER = Path("screenshots")


@pytest.mark.parametrize(("theme", "size"), [("light", "wide"), ("dark", "wide"), ("light", "narrow")])
@pytest.mark.parametrize("path", sorted(set(EXAMPLES) - PIECES))
def test_picture(visitor: Callable[..., Page], stage: Stage, path: str, theme: str, size: str) -> None:
    page = sign_in(visitor(color_scheme=theme, viewport=WIDE if size == "wide" else NARROW))
    page.goto(EXAMPLES[path](stage.found))
    take(page, path, theme, size)


def take(page: Page, path: str, theme: str, size: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    page.wait_for_load_state("networkidle")  # what a page fetches by itself is a part of it
    name = re.sub(r"[^a-z]+", "-", path.removeprefix("/")).strip("-")
    page.screenshot(path=FOLDER / f"{name}.{theme}.{size}.png", full_page=True)


@pytest.mark.parametrize(("theme", "size"), [("light", "wide"), ("dark", "wide"), ("light", "narrow")])
@pytest.mark.parametrize("path", sorted(PORTAL))
def test_picture_of_the_portal(visitor: Callable[..., Page], stage: Stage, path: str, theme: str, size: str) -> None:
    page = visitor(color_scheme=theme, viewport=WIDE if size == "wide" else NARROW)
    page.goto(link(stage, stage.found.user))
    page.goto(PORTAL[path](stage.found))
    take(page, path, theme, size)
