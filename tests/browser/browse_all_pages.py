"""What holds of every page: it can be reached, read by everybody, and holds nothing hostile that runs."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import NARROW, Stage, sign_in, violations
from tests.browser.examples import EXAMPLES, PIECES

STICKS_OUT = """
() => document.documentElement.scrollWidth <= innerWidth ? [] : [
  "something", ...[...document.querySelectorAll("body *")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 120))]
"""
ADDRESSES = sorted(set(EXAMPLES) - PIECES)


def test_each_page_has_an_example(stage: Stage) -> None:
    assert {page.path for page in stage.world.service.pages.site.pages if page.method == "GET"} == set(EXAMPLES)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ADDRESSES)
def test_nobody_is_shut_out(visitor: Callable[..., Page], stage: Stage, path: str, theme: str) -> None:
    page = sign_in(visitor(color_scheme=theme))
    answer = page.goto(EXAMPLES[path](stage.found))
    assert answer is not None
    assert answer.status == 200
    assert page.locator("h1").count() == 1
    assert page.title().endswith(" · Talktime")
    assert violations(page) == []


CUT_ROWS = """() => [...document.querySelectorAll("table.rows")].map((table) => table.parentElement)
    .filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.textContent.trim().slice(0, 60))"""


@pytest.mark.parametrize("path", ADDRESSES)
def test_it_fits_a_phone(visitor: Callable[..., Page], stage: Stage, path: str) -> None:
    page = sign_in(visitor(viewport=NARROW))
    page.goto(EXAMPLES[path](stage.found))
    assert page.evaluate(STICKS_OUT) == [], "it has to be moved sideways"
    assert page.evaluate(CUT_ROWS) == [], "rows of a list go on out of sight"
    assert violations(page) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES))
def test_a_stranger_sees_nothing_of_it(visitor: Callable[..., Page], stage: Stage, path: str) -> None:
    page = visitor()
    page.goto(EXAMPLES[path](stage.found))
    # What a link shows to whoever has it is the name of its admin, and a button of its own.
    asked = f"Sign in as {stage.found.admin}" if path == "/admin/sign-in/link" else "Sign in"
    assert page.get_by_role("button", name=asked, exact=True).is_visible()
    assert stage.found.user not in page.inner_text("body")
