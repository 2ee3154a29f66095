"""Looking at rate cards, trying prices, publishing them, and asking what they would have come to."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import NARROW, Stage, sign_in, violations
from tests.support.furnished import HOSTILE, finished
from tests.support.postgres import ask, tell

WHY = "the new price list"
ONE_AND_TWO = {"user": "1", "agent": "2", "silence": "0"}


@pytest.fixture
def name() -> str:
    """A card that no other test knows."""
    return f"card-{uuid4().hex[:10]}"


def publish(stage: Stage, name: str, **terms: Any) -> dict[str, Any]:
    card = {"name": name, "rates": ONE_AND_TWO, **terms}
    answer = stage.run(stage.world.client.post("/v1/rate-cards", json=card))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def versions(stage: Stage, name: str) -> list[dict[str, Any]]:
    found = stage.run(stage.world.get(f"/v1/rate-cards?name={quote(name, safe='')}"))
    return sorted(found["data"], key=lambda one: -one["version"])


def type_rates(page: Page, user: str, agent: str, silence: str) -> None:
    for label, rate in (("User talks", user), ("Agent talks", agent), ("Silence", silence)):
        page.get_by_label(label, exact=True).fill(rate)


def look(page: Page) -> None:
    page.get_by_role("button", name="See what it comes to").click()


def examples(page: Page) -> str:
    return page.locator("#examples").inner_text()


def test_versions_stand_side_by_side_and_say_what_changed(admin: Page, stage: Stage) -> None:
    admin.get_by_role("link", name="Rate cards").click()
    table = admin.get_by_role("table", name="Versions of evening, newest first")
    expect(table.get_by_role("columnheader")).to_contain_text(["Term", "Version 3", "Version 2", "Version 1"])
    expect(table.get_by_role("columnheader", name="Version 3 scheduled")).to_be_visible()
    expect(table.get_by_role("columnheader", name="Version 2 in force")).to_be_visible()
    expect(table.get_by_role("row", name="Agent talks, a minute 72 ≠ was 60 60 60")).to_be_visible()
    expect(table.get_by_role("row", name="Chosen for")).to_contain_text("persona “owl”")
    expect(table.get_by_role("row", name="Included")).to_have_count(0)
    admin.get_by_role("link", name="evening", exact=True).click()
    expect(admin.get_by_role("row", name="Included 0 s 0 s 0 s")).to_be_visible()
    admin.get_by_role("link", name="New version", exact=True).click()
    assert stage.found.cards["evening"]["id"] not in admin.url, "that one is only to come"
    expect(admin.get_by_label("Connection fee")).to_have_value("0.5")


def test_many_versions_are_shown_in_pages_each_compared_with_the_one_before(
    admin: Page, stage: Stage, name: str
) -> None:
    for included in range(11):
        publish(stage, name, included_s=included)
    admin.goto("/admin/rate-cards")
    expect(admin.get_by_text("11 versions")).to_be_visible()
    admin.get_by_role("link", name=name, exact=True).click()
    expect(admin.get_by_role("columnheader", name="Version 4")).to_be_visible()
    expect(admin.get_by_role("row", name="Included")).to_contain_text("3 s was 2 s")
    admin.get_by_role("link", name="More versions").click()
    expect(admin.get_by_role("columnheader")).to_contain_text(["Term", "Version 3", "Version 2", "Version 1"])
    expect(admin.get_by_role("row", name="Included 2 s ≠ was 1 s 1 s ≠ was 0 s 0 s")).to_be_visible()
    expect(admin.get_by_text("Version 11 is in force; it is not on this page.")).to_be_visible()


def test_the_examples_are_priced_as_one_types(admin: Page) -> None:
    admin.goto("/admin/rate-cards/new")
    expect(admin.locator("#examples")).to_contain_text("User talks is required.")
    type_rates(admin, "60", "60", "60")
    expect(admin.locator("#examples")).to_contain_text("21.571 credits")
    expect(admin.locator("#examples")).to_contain_text("268.4 credits")
    admin.get_by_text("Amounts", exact=True).click()
    admin.get_by_label("Connection fee").fill("1.")
    expect(admin.locator("#examples")).to_contain_text("Connection fee must be a plain decimal")
    admin.get_by_label("Connection fee").fill("1.5")
    expect(admin.locator("#examples")).to_contain_text("23.071 credits")
    expect(admin.locator("#examples-said")).to_contain_text("The guide’s talk: 23.071 credits.")
    admin.get_by_label("Name").fill("default")
    expect(admin.locator("#examples")).to_contain_text("now 21.571")


def test_a_version_is_published_once_by_keyboard_alone(admin: Page, stage: Stage, name: str) -> None:
    admin.goto("/admin/rate-cards/new")
    admin.get_by_label("Name").focus()
    for text in (name, "1.5", "3", "0.6"):
        admin.keyboard.type(text)
        admin.keyboard.press("Tab")
    admin.keyboard.press("Enter")  # long silences open
    admin.keyboard.press("Tab")
    admin.keyboard.type("8")
    admin.keyboard.press("Enter")
    expect(admin.get_by_role("heading", name="This is what it comes to")).to_be_visible()
    expect(admin.get_by_role("row", name="User talks, a minute – 1.5")).to_be_visible()
    expect(admin.get_by_role("row", name="Of each silence at the full rate – 8 s")).to_be_visible()
    expect(admin.get_by_role("button", name="Publish it")).to_be_focused()
    assert violations(admin) == []
    assert versions(stage, name) == []
    admin.keyboard.press("Enter")
    expect(admin.get_by_role("status")).to_have_text("The version was published.")
    (made,) = versions(stage, name)
    assert made["rates"] == {"user": "1.5", "agent": "3", "silence": "0.6"}
    assert made["silence"] == {"full_rate_first_s": 8, "factor_after": "0"}


def test_every_term_is_published_as_it_was_typed(admin: Page, stage: Stage, name: str) -> None:
    publish(stage, name, maximum_charge="7", silence={"full_rate_first_s": None})
    admin.goto(f"/admin/rate-cards/new?from={versions(stage, name)[0]['id']}")
    type_rates(admin, "10", "20", "30")
    admin.get_by_text("Measurement", exact=True).click()
    admin.get_by_text("Time", exact=True).click()
    expect(admin.get_by_label("At the full rate first, in seconds")).to_have_value("")
    expect(admin.get_by_label("Largest charge")).to_have_value("7")
    for label, text in {
        "Factor after that": "0.25",
        "First increment, in seconds": "30",
        "Further increments, in seconds": "6",
        "Included, in seconds": "1.5",
        "Free below, in seconds": "2",
        "Charged at least, in seconds": "3",
        "Connection fee": "0.1",
        "Least charge": "0.2",
        "Largest charge": "",
        "Rounded to multiples of": "0.01",
        "A heartbeat every, in seconds": "20",
        "Heartbeats that may be missing": "2",
        "A heartbeat may be late by, in seconds": "4",
        "In force from": "2030-01-31 12:00",
        "Persona": "p",
        "Scenario": "s",
        "Reason": WHY,
    }.items():
        admin.get_by_label(label, exact=label != "Reason").fill(text)
    admin.get_by_label("Increments round up").select_option("each kind of time")
    admin.get_by_label("Rounded", exact=True).select_option("up")
    admin.get_by_label("Charged from").select_option("the user’s first speech")
    look(admin)
    expect(admin.get_by_role("row", name="User talks, a minute 1 10")).to_be_visible()
    expect(admin.get_by_role("row", name="Largest charge 7 no limit")).to_be_visible()
    expect(admin.get_by_text("from 31 Jan 2030, 12:00:00 UTC")).to_be_visible()
    expect(admin.get_by_text("version 1, in force now")).to_be_visible()
    expect(admin.get_by_text("persona “p” and scenario “s”")).to_be_visible()
    admin.get_by_role("button", name="Publish it").dblclick()
    expect(admin.get_by_role("columnheader", name="Version 2 scheduled")).to_be_visible()
    made, before = versions(stage, name)
    assert before["version"] == 1
    assert {key: made[key] for key in made if key not in {"id", "created_at"}} == {
        "version": 2,
        "name": name,
        "rates": {"user": "10", "agent": "20", "silence": "30"},
        "silence": {"full_rate_first_s": None, "factor_after": "0.25"},
        "increments": {"initial_s": 30, "subsequent_s": 6, "scope": "type"},
        "connection_fee": "0.1",
        "included_s": 1.5,
        "short_session_exemption_s": 2,
        "minimum_duration_s": 3,
        "minimum_charge": "0.2",
        "maximum_charge": None,
        "rounding": {"quantum": "0.01", "mode": "up"},
        "measurement": {
            "heartbeat_interval_s": 20,
            "missed_heartbeats_tolerated": 2,
            "heartbeat_jitter_s": 4,
            "charge_from": "first_user_speech",
        },
        "effective_at": "2030-01-31T12:00:00.000000Z",
        "match": {"persona": "p", "scenario": "s"},
    }
    told = f"select actor, reason from audit_log where target = '{made['id']}'"
    assert ask(stage.world.service.database.conninfo, told) == [("bootstrap", WHY)]


def test_wrong_input_stands_beside_its_field_and_what_was_typed_stays(admin: Page, stage: Stage, name: str) -> None:
    admin.goto("/admin/rate-cards/new")
    look(admin)
    expect(admin.get_by_text("Name is required.")).to_be_visible()
    expect(admin.locator("form").get_by_text("Agent talks is required.").first).to_be_visible()
    admin.get_by_label("Name").fill(name)
    type_rates(admin, "-1", "two", "3")
    admin.get_by_text("Long silences", exact=True).click()
    admin.get_by_label("Factor after that").fill("2")
    admin.get_by_text("Time", exact=True).click()
    admin.get_by_label("Included, in seconds").fill("soon")
    admin.get_by_label("In force from").fill("tomorrow")
    for button in ("See what it comes to", "What if?", "Price the examples"):
        admin.get_by_role("button", name=button).click()
        expect(admin.get_by_role("alert")).to_contain_text("nothing was changed")
        for label, error in {
            "User talks": "User talks must not be negative.",
            "Agent talks": "Agent talks must be a plain decimal such as 12.5.",
            "Factor after that": "Factor after that must be at most 1.",
            "Included, in seconds": "Included, in seconds must be a JSON number.",
            "In force from": "In force from must be an RFC 3339 instant",
        }.items():
            field = admin.get_by_label(label, exact=True)
            expect(field).to_have_attribute("aria-invalid", "true")
            expect(field).to_be_visible()
            expect(field.locator("xpath=..").locator(".error")).to_contain_text(error)
        expect(admin.get_by_label("Agent talks")).to_have_value("two")
    assert violations(admin) == []
    type_rates(admin, "1", "2", "3")
    admin.get_by_label("Factor after that").fill("0")
    admin.get_by_label("Included, in seconds").fill("")
    admin.get_by_label("In force from").fill("")
    admin.get_by_text("Amounts", exact=True).click()
    admin.get_by_label("Least charge").fill("5")
    admin.get_by_label("Largest charge").fill("4")
    look(admin)
    expect(admin.get_by_role("alert")).to_contain_text("inimum_charge must not be over maximum_charge")
    assert versions(stage, name) == []


def test_of_two_admins_the_second_sees_what_the_first_published(
    visitor: Callable[..., Page], stage: Stage, name: str
) -> None:
    publish(stage, name)
    first, second = sign_in(visitor()), sign_in(visitor())
    for page, rate in ((first, "5"), (second, "7")):
        page.goto(f"/admin/rate-cards/new?from={versions(stage, name)[0]['id']}")
        page.get_by_label("User talks").fill(rate)
        look(page)
        expect(page.get_by_role("row", name=f"User talks, a minute 1 {rate}")).to_be_visible()
    first.get_by_role("button", name="Publish it").click()
    expect(first.get_by_role("status")).to_be_visible()
    second.get_by_role("button", name="Publish it").click()
    expect(second.get_by_role("alert")).to_contain_text("It has changed since you looked")
    expect(second.get_by_role("row", name="User talks, a minute 5 7")).to_be_visible()
    assert [one["rates"]["user"] for one in versions(stage, name)] == ["5", "1"]
    second.get_by_role("button", name="Publish it").click()
    expect(second.get_by_role("status")).to_be_visible()
    assert [one["rates"]["user"] for one in versions(stage, name)] == ["7", "5", "1"]


def test_a_version_that_a_later_one_hides_says_so(admin: Page, stage: Stage, name: str) -> None:
    publish(stage, name)
    admin.goto(f"/admin/rate-cards/new?from={versions(stage, name)[0]['id']}")
    admin.get_by_label("In force from").fill("2020-01-01")
    look(admin)
    expect(admin.get_by_text("version 1 is in force from a later time on")).to_be_visible()


def test_hostile_names_are_only_text(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/rate-cards")
    admin.get_by_role("link", name=HOSTILE, exact=True).click()
    expect(admin.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    admin.get_by_role("link", name="New version", exact=True).click()
    expect(admin.get_by_label("Name")).to_have_value(HOSTILE)
    admin.get_by_label("Persona").fill(HOSTILE)
    admin.get_by_label("User talks").fill("4")
    expect(admin.locator("#examples")).to_contain_text(HOSTILE)
    admin.get_by_role("button", name="What if?").click()
    expect(admin.get_by_label("Priced by").locator("option:checked")).to_have_text(f"the draft of {HOSTILE}")
    admin.get_by_role("button", name="Price the sessions").click()
    expect(admin.get_by_role("heading", level=1)).to_contain_text(HOSTILE)
    admin.get_by_role("link", name="Edit the draft").click()
    expect(admin.get_by_label("User talks")).to_have_value("4")
    look(admin)
    expect(admin.get_by_text(HOSTILE, exact=True)).to_be_visible()
    admin.get_by_role("button", name="Publish it").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    assert versions(stage, HOSTILE)[0]["rates"]["user"] == "4"


def test_names_that_look_like_addresses_have_their_page(admin: Page, stage: Stage) -> None:
    for odd in ("new", "..", "a/b?c#d", "%2e"):
        publish(stage, odd)
        admin.goto("/admin/rate-cards")
        admin.get_by_role("link", name=odd, exact=True).click()
        expect(admin.get_by_role("heading", level=1)).to_have_text(odd)


def test_without_scripts(visitor: Callable[..., Page], stage: Stage, name: str) -> None:
    page = sign_in(visitor(java_script_enabled=False, viewport=NARROW))
    page.goto("/admin/rate-cards/new")
    page.get_by_label("Name").fill(name)
    type_rates(page, "60", "60", "60")
    page.get_by_role("button", name="Price the examples").click()
    assert "21.571 credits" in examples(page)
    expect(page.get_by_label("Name")).to_have_value(name)
    page.get_by_role("button", name="What if?").click()
    page.get_by_role("button", name="Price the sessions").click()
    expect(page.get_by_role("heading", name="It waits for its turn")).to_be_visible()
    stage.run(finished(stage.world, {"id": page.url.rpartition("/")[2].partition("?")[0]}))
    page.get_by_role("link", name="Look again").click()
    expect(page.get_by_role("heading", name="Users hurt most")).to_be_visible()
    page.get_by_role("link", name="Edit the draft").click()
    look(page)
    page.get_by_role("button", name="Publish it").click()
    expect(page.get_by_role("status")).to_have_text("The version was published.")
    assert len(versions(stage, name)) == 1


# What if?


def test_a_what_if_shows_its_progress_and_then_what_comes_of_it(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/rate-cards/versions?name=default")
    admin.get_by_role("link", name="What if? with version 1 of default").click()
    expect(admin.get_by_label("Priced by").locator("option:checked")).to_have_text("default, version 1")
    admin.get_by_label("What the provider takes").select_option("its public metering rule, at the prices below")
    admin.get_by_label("A minute of the user").fill("20")
    admin.get_by_label("Of the agent").fill("500")
    admin.get_by_role("button", name="Price the sessions").dblclick()
    expect(admin.get_by_role("heading", name="It waits for its turn")).to_be_visible()
    assert violations(admin) == []
    waiting = stage.run(stage.world.get("/v1/rate-cards/simulations"))["data"]
    assert [one["state"] for one in waiting].count("waiting") == 1
    stage.run(finished(stage.world, waiting[0]))
    expect(admin.get_by_role("row", name="the same 2 0")).to_be_visible()
    expect(admin.get_by_role("row", name="Left")).to_contain_text("−")
    expect(admin.get_by_text("Nobody would pay more.")).to_be_visible()
    expect(admin.get_by_text("Every session could be rated.")).to_be_visible()
    admin.get_by_role("link", name="Ask again").click()
    expect(admin.get_by_label("Priced by").locator("option:checked")).to_have_text("default, version 1")


def test_the_result_leads_to_those_whom_it_hurts(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/what-if")
    admin.locator(f"a[href$='{stage.found.simulation['id']}']").click()
    result = stage.found.simulation["result"]
    expect(admin.get_by_role("row", name="10 to 25 % more 1")).to_be_visible()
    hurt = admin.get_by_role("region", name="Users").first
    expect(hurt.get_by_role("link")).to_have_text([one["user_id"] for one in result["users_paying_more"]])
    rise = admin.get_by_role("link", name=f"+{result['largest_rise']['difference']}", exact=True)
    expect(rise).to_have_attribute("href", f"/admin/sessions/{result['largest_rise']['session_id']}")
    hurt.get_by_role("link", name=stage.found.hostile_user, exact=True).click()
    expect(admin.get_by_role("heading", level=1)).to_have_text(stage.found.hostile_user)


def test_a_wrong_question_is_refused_beside_its_field(admin: Page, stage: Stage) -> None:
    def count() -> int:
        return int(ask(stage.world.service.database.conninfo, "select count(*) from simulations")[0][0])

    before = count()
    admin.goto("/admin/what-if/new?rate_card=default")
    admin.get_by_label("Sessions settled from").fill("2099-01-01")
    admin.get_by_label("Settled before").fill("2099-02-01")
    admin.get_by_label("A minute of the user").fill("1")
    send = admin.get_by_role("button", name="Price the sessions")
    send.click()
    expect(admin.get_by_text("What the provider takes must be the metering rule where")).to_be_visible()
    admin.get_by_label("What the provider takes").select_option("its public metering rule, at the prices below")
    send.click()
    expect(admin.get_by_text("Settled before must not be in the future")).to_be_visible()
    admin.get_by_label("Settled before").fill("2026-02-01")
    send.click()
    expect(admin.get_by_text("Settled before must be later than after.")).to_be_visible()
    admin.get_by_label("Sessions settled from").fill("2026-01-01")
    admin.get_by_label("A minute of the user").fill("0")
    send.click()
    expect(admin.get_by_text("A minute of the user is required, or the price of")).to_be_visible()
    assert count() == before
    admin.get_by_label("A minute of the user").fill("1")
    send.click()
    expect(admin).to_have_url(re.compile("/admin/what-if/sim_"))
    assert count() == before + 1
    stage.run(finished(stage.world, {"id": admin.url.rpartition("/")[2].partition("?")[0]}))
    expect(admin.get_by_text("nothing to compare with")).to_be_visible()


def test_what_has_failed_says_why(admin: Page, stage: Stage) -> None:
    this = stage.found.simulation["id"]
    url = stage.world.service.database.conninfo
    admin.goto("/admin/what-if/new?rate_card=default")
    admin.get_by_role("button", name="Price the sessions").click()
    expect(admin.get_by_role("heading", name="It waits for its turn")).to_be_visible()
    tell(url, "update simulations set state = 'failed', failure = 'it broke' where state = 'waiting'")
    expect(admin.get_by_role("alert")).to_have_text("It has failed: it broke.")
    answer = admin.goto(f"/admin/what-if/{this}x")
    assert answer is not None
    assert answer.status == 404
