"""Signing in and out."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Stage, sign_in, violations
from tests.support.furnished import link_for, make_admin
from tests.support.postgres import tell
from tests.support.world import ADMIN_KEY


def test_by_keyboard_alone(visitor: Callable[..., Page]) -> None:
    page = visitor()
    page.goto("/admin")
    expect(page.get_by_label("Name")).to_be_focused()
    for _ in range(3):  # password, button, the other way in
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(ADMIN_KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()


def test_a_wrong_key_or_password_says_so_and_opens_nothing(visitor: Callable[..., Page]) -> None:
    page = visitor()
    page.goto("/admin/sign-in")
    page.get_by_text("Use an admin key instead").click()
    page.get_by_label("Admin key").fill("ttk_wrong")
    page.get_by_role("button", name="Sign in with the key").click()
    expect(page.get_by_role("alert")).to_have_text("This key is not valid.")
    page.get_by_label("Name").fill("nobody")
    page.get_by_label("Password").fill("something else")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_have_text("There is no such name, or the password is another one.")
    expect(page.get_by_label("Name")).to_have_value("nobody")
    page.goto("/admin")
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()


def test_one_comes_out_where_one_wanted_to_go(visitor: Callable[..., Page]) -> None:
    page = visitor()
    page.goto("/admin/figures")
    page.get_by_text("Use an admin key instead").click()
    page.get_by_label("Admin key").fill(ADMIN_KEY)
    page.get_by_role("button", name="Sign in with the key").click()
    page.wait_for_url("**/admin/figures")


def test_whoever_signs_out_is_out(admin: Page) -> None:
    admin.get_by_role("button", name="Sign out").click()
    expect(admin.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    admin.goto("/admin")
    expect(admin.get_by_role("button", name="Sign in", exact=True)).to_be_visible()


def test_a_link_signs_in_by_one_key_press_and_never_again(visitor: Callable[..., Page], stage: Stage) -> None:
    name = stage.run(make_admin(stage.world))
    address = f"/admin/sign-in/link?token={stage.run(link_for(stage.world, name))}"
    page = visitor()
    page.goto(address)
    expect(page.get_by_role("button", name=f"Sign in as {name}")).to_be_focused()
    assert violations(page) == []
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.get_by_text(name)).to_be_visible()
    later = visitor()
    later.goto(address)
    expect(later.get_by_role("alert")).to_contain_text("This link was used, has expired, or never was one")
    assert violations(later) == []


def test_a_sign_in_that_has_ended_leads_to_the_next_one(visitor: Callable[..., Page], stage: Stage) -> None:
    page = sign_in(visitor())
    tell(stage.world.service.database.conninfo, "delete from admin_sessions")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
