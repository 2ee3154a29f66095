"""Endpoints, what is sent to them and what came of it, as developers and operators use them."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.core.access import Role
from tests.browser.conftest import Stage
from tests.support.furnished import HOSTILE, PASSWORD, make_admin

SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{44}")


def look(page: Page) -> None:
    page.get_by_role("button", name="See what it comes to").click()


def make(page: Page, url: str, description: str) -> str:
    """An endpoint by the form; its secret."""
    page.goto("/admin/endpoints")
    page.get_by_role("link", name="Make an endpoint").click()
    page.get_by_label("URL").fill(url)
    page.get_by_label("Description").fill(description)
    page.get_by_label("session.settled").check()
    look(page)
    page.get_by_role("button", name="Make the endpoint").click()
    secret = page.get_by_label("Secret").input_value()
    assert SECRET.fullmatch(secret)
    page.get_by_role("link", name="Done").click()
    assert secret not in page.content()
    return secret


def test_an_endpoint_is_made_changed_and_deleted(admin: Page) -> None:
    secret = make(admin, "https://1.1.1.1/made", "the till")
    admin.get_by_role("link", name="https://1.1.1.1/made", exact=True).click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("https://1.1.1.1/made")
    expect(admin.get_by_text("the till")).to_be_visible()
    expect(admin.get_by_text("session.settled").first).to_be_visible()
    admin.get_by_role("link", name="Another secret").click()
    look(admin)
    expect(admin.get_by_text("86400 s")).to_be_visible()
    admin.get_by_role("button", name="Make another secret").click()
    other = admin.get_by_label("Secret").input_value()
    assert SECRET.fullmatch(other)
    assert other != secret
    admin.get_by_role("link", name="Done").click()
    assert other not in admin.content()
    admin.get_by_role("link", name="Change", exact=True).click()
    admin.get_by_label("State", exact=True).select_option("disabled")
    look(admin)
    expect(admin.get_by_role("row", name="State active disabled")).to_be_visible()
    admin.get_by_role("button", name="Change it").click()
    expect(admin.get_by_text("It was disabled now: by hand.")).to_be_visible()
    expect(admin.get_by_role("link", name="Send a test")).to_have_count(0)
    admin.get_by_role("link", name="Delete").click()
    look(admin)
    expect(admin.get_by_text("is dropped, for good")).to_be_visible()
    admin.get_by_role("button", name="Delete it").click()
    admin.wait_for_url(re.compile(r"/admin/endpoints(\?.*)?$"))
    expect(admin.get_by_role("link", name="https://1.1.1.1/made", exact=True)).to_have_count(0)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://hooks.example/", "must begin with https://"),
        ("https://127.0.0.1/", "must not lead to 127.0.0.1, which is loopback"),
        ("https://2130706433/", "four plain numbers"),
        ("https://hooks.example:22/", "must lead to port 443 or 8443"),
    ],
)
def test_where_nothing_may_go_stands_beside_its_field(admin: Page, url: str, says: str) -> None:
    admin.goto("/admin/endpoints/new")
    admin.get_by_label("URL").fill(url)
    admin.get_by_label("Description").fill("stays")
    look(admin)
    field = admin.get_by_label("URL")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(admin.get_by_text(says).first).to_be_visible()
    assert field.input_value() == url
    assert admin.get_by_label("Description").input_value() == "stays"


def test_a_test_is_sent_and_looked_at_by_keyboard_alone(admin: Page) -> None:
    make(admin, "https://1.1.1.1/keys", "keys")
    admin.get_by_role("link", name="https://1.1.1.1/keys", exact=True).focus()
    admin.keyboard.press("Enter")
    admin.wait_for_url("**/admin/endpoints/ep_*")
    admin.get_by_role("link", name="Send a test").focus()
    admin.keyboard.press("Enter")
    send = admin.get_by_role("button", name="Send it")
    send.focus()
    admin.keyboard.press("Enter")
    row = admin.get_by_role("row", name="webhook_endpoint.test")
    expect(row).to_be_visible()
    expect(row).to_contain_text("waiting")
    row.get_by_role("link", name="webhook_endpoint.test").focus()
    admin.keyboard.press("Enter")
    expect(admin.get_by_text('"type":"webhook_endpoint.test"')).to_be_visible()
    expect(admin.get_by_text("None was made yet.")).to_be_visible()


def test_what_has_failed_is_sent_again(admin: Page, stage: Stage) -> None:
    endpoint = f"/admin/endpoints/{stage.found.endpoint}"
    admin.goto("/admin/dead-letters")
    admin.get_by_role("link", name="grant.created").first.click()
    expect(admin.get_by_role("heading", level=1)).to_have_text(re.compile("dead"))
    admin.get_by_text("characters").click()
    expect(admin.get_by_text(HOSTILE, exact=True)).to_be_visible()
    admin.get_by_role("link", name="Send it again").click()
    admin.get_by_role("button", name="Send it again").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text(re.compile("waiting"))
    admin.goto("/admin/dead-letters")
    expect(admin.get_by_text("There is none")).to_be_visible()
    admin.goto(endpoint)
    admin.get_by_role("link", name="Send events again").click()
    look(admin)
    expect(admin.get_by_text("From is required.")).to_be_visible()
    admin.get_by_label("From").fill("2026-01-01 00:00")
    admin.get_by_label("session.settled").check()
    look(admin)
    expect(admin.get_by_role("heading", name="This is what it comes to")).to_be_visible()
    admin.get_by_role("button", name="Send them again").click()
    expect(admin.get_by_role("status")).to_be_visible()
    expect(admin.get_by_role("row", name="session.settled").first).to_contain_text("waiting")


def test_hostile_texts_are_only_text(admin: Page) -> None:
    make(admin, "https://1.1.1.1/hostile", HOSTILE)
    expect(admin.get_by_text(HOSTILE).first).to_be_visible()
    admin.get_by_role("link", name="https://1.1.1.1/hostile", exact=True).click()
    expect(admin.get_by_text(HOSTILE)).to_be_visible()


def test_who_may_only_look_changes_nothing(visitor: Callable[..., Page], stage: Stage) -> None:
    name = stage.run(make_admin(stage.world, Role.READ_ONLY))
    page = visitor()
    page.goto("/admin/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url("**/admin")
    page.goto(f"/admin/endpoints/{stage.found.endpoint}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for action in ("Change", "Another secret", "Send a test", "Send events again", "Delete"):
        expect(page.get_by_role("link", name=action, exact=True)).to_have_count(0)
    page.goto(f"/admin/endpoints/{stage.found.endpoint}/delete")
    expect(page.get_by_text("you may look, and change nothing")).to_be_visible()
