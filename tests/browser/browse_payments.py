"""Payments that nobody could grant by themselves, as whoever looks after the money decides them."""

from playwright.sync_api import Page, expect

from tests.browser.conftest import Stage

WHY = "the customer wrote who paid"


def look(page: Page) -> None:
    page.get_by_role("button", name="See what it comes to").click()


def test_a_payment_of_nobodys_is_decided_once(admin: Page, stage: Stage) -> None:
    user = stage.world.user()
    admin.goto("/admin/payments")
    expect(admin.get_by_text("1 to look at")).to_be_visible()
    admin.get_by_label("Which").select_option(label="to look at")
    admin.get_by_role("button", name="Show").click()
    row = admin.get_by_role("row", name="nobody is named who gets the credits")
    row.get_by_role("link", name="stripe:pi_").click()
    admin.get_by_role("link", name="Decide").click()
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    expect(admin.locator("#f-user_id")).to_have_attribute("aria-invalid", "true")
    assert admin.get_by_label("Reason").input_value() == WHY
    admin.locator("#f-user_id").fill(user)
    look(admin)
    expect(admin.get_by_role("heading", name="This is what it comes to")).to_be_visible()
    admin.get_by_role("button", name="Decide so").click()
    expect(admin.get_by_role("status")).to_have_text("The payment was decided.")
    expect(admin.get_by_text("granted").first).to_be_visible()
    expect(admin.get_by_role("link", name="Decide")).to_have_count(0)
    assert stage.run(stage.world.balance(user))["balance"] == "100"
    admin.goto("/admin/payments")
    expect(admin.get_by_text("1 to look at")).to_have_count(0)


def test_what_recurs_stands_on_the_users_page(admin: Page, stage: Stage) -> None:
    admin.goto(f"/admin/users/{stage.found.user}")
    expect(admin.get_by_role("heading", name="Recurring grants")).to_be_visible()
    expect(admin.get_by_text("month", exact=False).first).to_be_visible()
