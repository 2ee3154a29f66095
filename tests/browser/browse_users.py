"""Looking at users, and correcting their accounts, as a person does."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from app.core.access import Role
from tests.browser.conftest import NARROW, Stage, sign_in
from tests.support.furnished import HOSTILE, PASSWORD, make_admin
from tests.support.postgres import ask

WHY = "the customer was cut off"


@pytest.fixture
def user(stage: Stage) -> str:
    """Someone with 50 credits."""
    user_id = stage.world.user()
    stage.run(stage.world.grant(user_id, "50"))
    return user_id


def balance(stage: Stage, user_id: str) -> str:
    return str(stage.run(stage.world.balance(user_id))["balance"])


def look(page: Page) -> None:
    page.get_by_role("button", name="See what it comes to").click()


def test_the_list_searches_as_one_types_and_sorts(admin: Page, user: str) -> None:
    admin.get_by_role("link", name="Users").click()
    admin.get_by_label("Begins with").press_sequentially(user.upper()[:-2])
    expect(admin.get_by_role("link", name=user)).to_be_visible()
    expect(admin.locator("tbody tr")).to_have_count(1)
    assert user[:-2] in admin.url.lower()
    admin.get_by_label("Begins with").fill("")
    admin.get_by_label("Order").select_option("low first")
    expect(admin).to_have_url(re.compile("sort=available"))
    admin.get_by_label("Begins with").fill("nobody-at-all")
    expect(admin.get_by_role("link", name="Grant credits to “nobody-at-all”")).to_be_visible()


def test_whatever_is_read_out_is_found(admin: Page, stage: Stage) -> None:
    for text in (stage.found.user, stage.found.grants["paid"]["id"]):
        admin.keyboard.press("/")
        admin.keyboard.type(text)
        admin.keyboard.press("Enter")
        admin.wait_for_url("**/admin/users/**")
        expect(admin.get_by_text(stage.found.user).first).to_be_visible()


def test_a_grant_shows_its_effect_first_and_is_given_once(admin: Page, stage: Stage, user: str) -> None:
    admin.goto(f"/admin/users/{user}")
    admin.get_by_role("link", name="Grant", exact=True).click()
    admin.get_by_label("Amount").fill("12.5")
    admin.get_by_label("Kind").select_option("promotional")
    admin.get_by_label("Expires at").fill("2030-01-31 12:00")
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    expect(admin.get_by_role("row", name="Balance 50 62.5")).to_be_visible()
    assert balance(stage, user) == "50"
    admin.get_by_role("button", name="Grant them").dblclick()
    expect(admin.get_by_role("status")).to_have_text("The credits were granted.")
    assert balance(stage, user) == "62.5"
    admin.go_back()
    admin.reload()
    assert balance(stage, user) == "62.5"
    url = stage.world.service.database.conninfo
    told = "select actor, reason, request_id is not null, address from audit_log"
    rows = ask(url, f"{told} where after ->> 'user_id' = '{user}' and reason is not null")
    assert rows == [("bootstrap", WHY, True, "127.0.0.1")]


def test_on_a_phone_the_effect_is_seen_beside_the_button(visitor: Callable[..., Page], user: str) -> None:
    page = sign_in(visitor(viewport=NARROW))
    page.goto(f"/admin/users/{user}/adjust")
    page.get_by_label("Amount").fill("5")
    page.get_by_label("Reason").fill(WHY * 10)
    look(page)
    expect(page.get_by_role("button", name="Adjust it")).to_be_focused()
    expect(page.get_by_role("heading", name="This is what it comes to")).to_be_in_viewport()
    expect(page.get_by_role("button", name="Adjust it")).to_be_in_viewport()


def test_by_keyboard_alone(admin: Page, stage: Stage, user: str) -> None:
    admin.goto(f"/admin/users/{user}/adjust")
    admin.get_by_label("Amount").focus()
    admin.keyboard.type("-20")
    for _ in range(3):
        admin.keyboard.press("Tab")
    admin.keyboard.type(WHY)
    admin.keyboard.press("Tab")
    admin.keyboard.press("Enter")
    expect(admin.get_by_role("row", name="Balance 50 30")).to_be_visible()
    expect(admin.get_by_role("button", name="Adjust it")).to_be_focused()
    admin.keyboard.press("Enter")
    expect(admin.get_by_role("status")).to_be_visible()
    assert balance(stage, user) == "30"


def test_wrong_input_stands_beside_its_field_and_what_was_typed_stays(admin: Page, stage: Stage, user: str) -> None:
    admin.goto(f"/admin/users/{user}/grant")
    admin.get_by_label("Amount").fill("twelve")
    admin.get_by_label("Expires at").fill("tomorrow")
    look(admin)
    expect(admin.get_by_role("alert")).to_contain_text("nothing was changed")
    expect(admin.get_by_text("Amount must be a plain decimal such as 12.5.")).to_be_visible()
    expect(admin.get_by_text("Expires at must be an RFC 3339 instant")).to_be_visible()
    expect(admin.get_by_text("Reason is required.")).to_be_visible()
    expect(admin.get_by_label("Amount")).to_have_value("twelve")
    expect(admin.get_by_label("Amount")).to_have_attribute("aria-invalid", "true")
    admin.goto(f"/admin/users/{user}/adjust")
    admin.get_by_label("Amount").fill("-51")
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    expect(admin.get_by_role("alert")).to_contain_text("50 credits are available")
    assert balance(stage, user) == "50"


def test_of_two_admins_the_second_sees_what_the_first_did(
    visitor: Callable[..., Page], stage: Stage, user: str
) -> None:
    first, second = sign_in(visitor()), sign_in(visitor())
    for page, amount in ((first, "5"), (second, "7")):
        page.goto(f"/admin/users/{user}/adjust")
        page.get_by_label("Amount").fill(amount)
        page.get_by_label("Reason").fill(WHY)
        look(page)
    first.get_by_role("button", name="Adjust it").click()
    expect(first.get_by_role("status")).to_be_visible()
    second.get_by_role("button", name="Adjust it").click()
    expect(second.get_by_role("alert")).to_contain_text("it has changed since you looked".capitalize())
    expect(second.get_by_role("row", name="Balance 55 62")).to_be_visible()
    assert balance(stage, user) == "55"
    second.get_by_role("button", name="Adjust it").click()
    expect(second.get_by_role("status")).to_be_visible()
    assert balance(stage, user) == "62"


def test_a_grant_is_voided_once(visitor: Callable[..., Page], stage: Stage, user: str) -> None:
    first, second = sign_in(visitor()), sign_in(visitor())
    for page in (first, second):
        page.goto(f"/admin/users/{user}")
        page.get_by_role("link", name="Void the grant").click()
        page.get_by_label("Reason").fill(WHY)
        look(page)
        expect(page.get_by_text("50 credits")).to_be_visible()
    first.get_by_role("button", name="Take back what is left").click()
    expect(first.get_by_role("status")).to_be_visible()
    second.get_by_role("button", name="Take back what is left").click()
    expect(second.get_by_role("alert")).to_contain_text("Nothing was changed")
    assert balance(stage, user) == "0"


def test_limits_and_alerts_are_changed(admin: Page, stage: Stage, user: str) -> None:
    admin.goto(f"/admin/users/{user}/limits")
    expect(admin.get_by_label("Credit limit")).to_have_value("0")
    admin.get_by_label("Credit limit").fill("10")
    admin.get_by_label("Most a day").fill("25")
    admin.get_by_label("Sessions at once").fill("2")
    admin.get_by_label("Suspended").check()
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    expect(admin.get_by_role("row", name="Credit limit 0 10")).to_be_visible()
    expect(admin.get_by_role("row", name="Suspended no yes")).to_be_visible()
    admin.get_by_role("button", name="Change them").click()
    expect(admin.get_by_text("suspended", exact=True)).to_be_visible()
    admin.goto(f"/admin/users/{user}/limits")
    expect(admin.get_by_label("Most a day")).to_have_value("25")
    admin.get_by_label("Most a day").fill("")
    admin.get_by_label("Suspended").uncheck()
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    admin.get_by_role("button", name="Change them").click()
    expect(admin.get_by_role("status")).to_be_visible()
    admin.goto(f"/admin/users/{user}/alerts")
    admin.get_by_label("so many credits").fill("40")
    admin.get_by_label("so much talk time").fill("60")
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    expect(admin.get_by_role("alert")).to_contain_text("othing was changed")
    admin.get_by_label("so much talk time").fill("")
    look(admin)
    admin.get_by_role("button", name="Change them").click()
    settings = stage.run(stage.world.get(f"/v1/users/{user}"))
    assert settings["alerts"] == {"low_credits": "40", "low_talk_time_s": None}
    assert settings["spend_limits"] == {"day": None, "month": None}
    assert (settings["credit_limit"], settings["max_concurrent_sessions"], settings["suspended"]) == ("10", 2, False)


def test_a_token_is_shown_once(admin: Page, stage: Stage, user: str) -> None:
    admin.goto(f"/admin/users/{user}/token")
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    assert "eyJ" not in admin.content()
    admin.get_by_role("button", name="Make the token").click()
    token = admin.get_by_label("Token").input_value()
    assert token.count(".") == 2
    answer = stage.run(
        stage.world.client.get(f"/v1/users/{user}/balance", headers={"Authorization": f"Bearer {token}"})
    )
    assert answer.status_code == 200
    admin.get_by_role("link", name="Done").click()
    assert token not in admin.content()


def test_the_statement_is_filtered_and_saved(admin: Page, stage: Stage) -> None:
    admin.goto(f"/admin/users/{stage.found.user}/statement")
    admin.get_by_label("What").select_option("charge")
    admin.get_by_role("button", name="Show").click()
    expect(admin.locator("tbody tr")).to_have_count(1)
    with admin.expect_download() as saved:
        admin.get_by_role("link", name="CSV").click()
    lines = saved.value.path().read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("id,seq,kind,amount")
    admin.get_by_label("From").fill("yesterday")
    admin.get_by_role("button", name="Show").click()
    expect(admin.get_by_role("alert")).to_contain_text("After: must be an RFC 3339 instant")
    expect(admin.get_by_label("From")).to_have_value("yesterday")


def test_hostile_names_are_only_text(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/users")
    admin.get_by_role("link", name=stage.found.hostile_user).click()
    expect(admin.get_by_role("heading", level=1)).to_have_text(stage.found.hostile_user)
    admin.get_by_role("link", name="Adjust").click()
    admin.get_by_label("Amount").fill("1")
    admin.get_by_label("Reason").fill(HOSTILE)
    look(admin)
    expect(admin.get_by_text(HOSTILE, exact=True)).to_be_visible()
    admin.get_by_role("button", name="Adjust it").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text(stage.found.hostile_user)
    expect(admin.get_by_role("cell", name=f"grant {HOSTILE}")).to_be_visible()


def test_who_may_only_look_changes_nothing(visitor: Callable[..., Page], stage: Stage, user: str) -> None:
    name = stage.run(make_admin(stage.world, Role.READ_ONLY))
    page = visitor()
    page.goto("/admin/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.goto(f"/admin/users/{user}")
    expect(page.get_by_role("heading", level=1)).to_have_text(user)
    expect(page.get_by_role("link", name="Grant", exact=True)).to_have_count(0)
    expect(page.get_by_role("link", name="Void the grant")).to_have_count(0)
    answer = page.goto(f"/admin/users/{user}/grant")
    assert answer is not None
    assert answer.status == 403
    expect(page.get_by_text("you may look, and change nothing")).to_be_visible()
