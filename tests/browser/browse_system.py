"""Keys, admins, the audit log, events and the system, as operators use them."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Stage
from tests.support.furnished import HOSTILE
from tests.support.world import ADMIN_KEY, SECRET

WHY = "an incident at the provider"


def look(page: Page) -> None:
    page.get_by_role("button", name="See what it comes to").click()


def test_a_key_is_made_shown_once_and_revoked(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/api-keys")
    admin.get_by_role("link", name="Make a key").click()
    look(admin)
    expect(admin.get_by_text("Name is required.")).to_be_visible()
    admin.get_by_label("Name").fill("the till")
    admin.get_by_label("read: look").check()
    look(admin)
    expect(admin.get_by_text("read", exact=True).first).to_be_visible()
    admin.get_by_role("button", name="Make the key").click()
    secret = admin.get_by_label("Key").input_value()
    bearer = {"Authorization": f"Bearer {secret}"}
    assert stage.run(stage.world.client.get("/v1/users", headers=bearer)).status_code == 200
    admin.get_by_role("link", name="Done").click()
    assert secret not in admin.content()
    admin.get_by_role("link", name="Revoke the key the till").click()
    look(admin)
    expect(admin.get_by_role("row", name="The key is taken yes no")).to_be_visible()
    admin.get_by_role("button", name="Revoke it").click()
    expect(admin.get_by_role("status")).to_have_text("The key was revoked.")
    assert stage.run(stage.world.client.get("/v1/users", headers=bearer)).status_code == 401


def test_an_admin_is_made_changed_and_closed(admin: Page, visitor: Callable[..., Page], stage: Stage) -> None:
    name = stage.world.user()
    admin.goto("/admin/admins/new")
    admin.get_by_label("Name").fill(name)
    look(admin)
    admin.get_by_role("button", name="Make the account").click()
    password = admin.get_by_label("Password").input_value()
    admin.get_by_role("link", name="Done").click()
    other = visitor()
    other.goto("/admin/sign-in")
    other.get_by_label("Name").fill(name)
    other.get_by_label("Password").fill(password)
    other.get_by_role("button", name="Sign in", exact=True).click()
    expect(other.get_by_text("read-only")).to_be_visible()
    admin.get_by_role("link", name=f"Change the account {name}").click()
    admin.get_by_label("Closed").check()
    look(admin)
    admin.get_by_role("button", name="Change it").click()
    expect(admin.get_by_role("status")).to_be_visible()
    other.goto("/admin/users")
    expect(other.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    admin.get_by_role("link", name=f"New password for {name}").click()
    look(admin)
    admin.get_by_role("button", name="Make another password").click()
    assert admin.get_by_label("Password").input_value() != password
    admin.goto("/admin/admins/new")
    admin.get_by_label("Name").fill(name)
    look(admin)
    expect(admin.get_by_role("alert")).to_contain_text("already")


def test_starts_are_stopped_and_go_on(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/system")
    admin.get_by_role("link", name="Stop all starts").click()
    admin.get_by_label("No session starts").check()
    admin.get_by_label("Reason").fill(WHY)
    look(admin)
    expect(admin.get_by_role("row", name=f"Starts go on are stopped: {WHY}")).to_be_visible()
    admin.get_by_role("button", name="Change it").click()
    expect(admin.get_by_text(f"No session starts: {WHY}.")).to_be_visible()
    assert stage.run(stage.world.get("/v1/settings"))["starts_stopped"] is True
    admin.get_by_role("link", name="Let starts go on").click()
    admin.get_by_label("No session starts").uncheck()
    admin.get_by_label("Reason").fill("it is over")
    look(admin)
    admin.get_by_role("button", name="Change it").click()
    assert stage.run(stage.world.get("/v1/settings"))["starts_stopped"] is False


def test_no_secret_stands_among_the_settings(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/system")
    expect(admin.get_by_role("row", name="TALKTIME_SECRET set, and not shown")).to_be_visible()
    text = admin.content()
    for secret in (SECRET, ADMIN_KEY, "test-ledger-key", stage.world.provider.api_key):
        assert secret not in text
    assert stage.world.service.database.conninfo not in text


def test_the_audit_log_is_searched(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/audit-log")
    admin.get_by_label("What", exact=True).fill("grant.create")
    admin.get_by_label("User", exact=True).fill(stage.found.user)
    admin.get_by_role("button", name="Show").click()
    expect(admin.locator("tbody tr")).to_have_count(3)
    admin.get_by_text("before and after").first.click()
    expect(admin.get_by_text('"amount"').first).to_be_visible()
    admin.get_by_label("From").fill("last week")
    admin.get_by_role("button", name="Show").click()
    expect(admin.get_by_role("alert")).to_contain_text("After: must be an RFC 3339 instant")


def test_events_are_looked_through(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/events")
    admin.get_by_label("Type").select_option("session.settled")
    admin.get_by_role("button", name="Show").click()
    expect(admin.locator("tbody tr")).to_have_count(2)
    admin.get_by_role("link", name=stage.found.user, exact=True).click()
    expect(admin.get_by_role("heading", level=1)).to_contain_text(stage.found.user)


def test_hostile_names_are_only_text(admin: Page) -> None:
    admin.goto("/admin/api-keys")
    expect(admin.get_by_text(HOSTILE[:100])).to_be_visible()
