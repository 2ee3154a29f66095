"""The user's portal as users see it."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NARROW, Stage, violations
from tests.browser.examples import PORTAL

ADDRESSES = sorted(PORTAL)


def link(stage: Stage, user_id: str, ttl_s: int = 900) -> str:
    """The part of a portal's link behind the host."""
    answer = stage.run(
        stage.world.client.post(f"/v1/users/{user_id.replace('/', '%2F')}/portal-links", json={"ttl_s": ttl_s})
    )
    assert answer.status_code == 201, answer.text
    return "/portal" + str(answer.json()["url"]).partition("/portal")[2]


@pytest.fixture
def portal(visitor: Callable[..., Page], stage: Stage) -> Page:
    """The furnished user in the own portal."""
    page = visitor()
    page.goto(link(stage, stage.found.user))
    return page


def test_each_of_its_pages_has_an_example(stage: Stage) -> None:
    assert {*PORTAL, "/portal/statement.csv"} == set(stage.world.service.pages.portal.paths)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ADDRESSES)
def test_nobody_is_shut_out(visitor: Callable[..., Page], stage: Stage, path: str, theme: str) -> None:
    page = visitor(color_scheme=theme)
    page.goto(link(stage, stage.found.user))
    answer = page.goto(PORTAL[path](stage.found))
    assert answer is not None
    assert answer.status == 200
    assert page.locator("h1").count() == 1
    assert violations(page) == []


CUT_TABLES = """() => [...document.querySelectorAll("table")].map((table) => table.parentElement)
    .filter((box) => box.scrollWidth > box.clientWidth + 1).map((box) => box.textContent.trim().slice(0, 60))"""


@pytest.mark.parametrize("path", ADDRESSES)
def test_it_fits_a_phone(visitor: Callable[..., Page], stage: Stage, path: str) -> None:
    page = visitor(viewport=NARROW)
    page.goto(link(stage, stage.found.user))
    page.goto(PORTAL[path](stage.found))
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    assert page.evaluate(CUT_TABLES) == [], "a table goes on out of sight"


def test_a_link_opens_it_and_leaves_the_address(portal: Page, stage: Stage) -> None:
    assert portal.url == f"{stage.url}/portal"
    expect(portal.get_by_text("9 min", exact=True)).to_be_visible()
    expect(portal.get_by_text("540 credits")).to_be_visible()
    portal.get_by_role("link", name="90.5 credits").click()
    expect(portal.get_by_text("1 min 18.5 s of talk; 12 s of silence; 59 s of silence were free")).to_be_visible()
    expect(portal.get_by_role("img", name="Session ses_")).to_be_visible()
    expect(portal.get_by_role("row", name="you talking 21 s 60 21")).to_be_visible()


def test_the_statement_is_taken_along(portal: Page) -> None:
    with portal.expect_download() as saved:
        portal.get_by_role("link", name="Download (CSV)").click()
    assert len(saved.value.path().read_text(encoding="utf-8").splitlines()) == 5
    portal.get_by_role("link", name="The whole statement").click()
    expect(portal.locator("tbody tr")).to_have_count(4)


def test_another_users_things_are_not_there(visitor: Callable[..., Page], stage: Stage) -> None:
    page = visitor()
    page.goto(link(stage, stage.world.user()))
    expect(page.get_by_text("Nothing was booked yet.")).to_be_visible()
    answer = page.goto(PORTAL["/portal/sessions/{session_id}"](stage.found))
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()


def test_what_has_expired_opens_nothing(visitor: Callable[..., Page], stage: Stage) -> None:
    page = visitor()
    page.goto(link(stage, stage.found.user, ttl_s=60))
    stage.world.clock.advance(61)
    for address in ("/portal", "/portal/statement", "/portal?token=a.b.c", "/portal?token="):
        answer = page.goto(address)
        assert answer is not None
        assert answer.status == 401
        expect(page.get_by_role("heading", name="This link does not open anything")).to_be_visible()


def test_whoever_leaves_is_out(portal: Page) -> None:
    portal.get_by_role("button", name="Leave").click()
    expect(portal.get_by_text("You have left.")).to_be_visible()
    answer = portal.goto("/portal")
    assert answer is not None
    assert answer.status == 401


def test_hostile_texts_are_only_text(visitor: Callable[..., Page], stage: Stage) -> None:
    page = visitor()
    page.goto(link(stage, stage.found.hostile_user))
    page.get_by_role("link", name=re.compile("alert")).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("<script>alert(1)</script>")
