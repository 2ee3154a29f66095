"""Deciding reviews, and correcting sessions, as a person does."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.conftest import Stage, sign_in
from tests.support.postgres import ask

WHY = "the provider confirmed it"


def in_review(stage: Stage, speech: int = 4_000) -> dict[str, Any]:
    """A session whose timeline says more than the time that passed."""
    world = stage.world

    async def make() -> dict[str, Any]:
        user = world.user()
        await world.grant(user, "1000")
        session = await world.start(user, time_limit_s=300)
        world.provider.say(session["provider_session_id"], ("user", 5), ("agent", speech))
        await world.heartbeats_until(session, 60)
        found = await world.settle(session)
        assert found["state"] == "review"
        return found

    return stage.run(make())


def settled(stage: Stage) -> dict[str, Any]:
    world = stage.world

    async def make() -> dict[str, Any]:
        user = world.user()
        await world.grant(user, "1000")
        session = await world.start(user, time_limit_s=300)
        world.provider.say(session["provider_session_id"], ("user", 10), ("agent", 20))
        await world.heartbeats_until(session, 60)
        return await world.settle(session)

    return stage.run(make())


def now(stage: Stage, session: dict[str, Any]) -> dict[str, Any]:
    return stage.run(stage.world.session(session))


def test_the_queue_is_worked_off_by_keys(admin: Page, stage: Stage) -> None:
    sessions = [in_review(stage) for _ in range(2)]
    admin.get_by_role("link", name="Reviews").click()
    admin.wait_for_url("**/admin/reviews")
    queue = admin.locator("#queue [data-review]")
    waiting = [item.get_attribute("data-review") for item in queue.all()]
    assert waiting[-2:] == [session["id"] for session in sessions], "who waits for the longest time comes first"
    for session_id in waiting[1:]:
        admin.keyboard.press("j")
        expect(admin.locator("#queue [aria-current]")).to_have_attribute("data-review", session_id or "")
    expect(admin.locator("#review")).to_contain_text(sessions[1]["user_id"])
    admin.keyboard.press("k")
    expect(admin.locator("#review")).to_contain_text(sessions[0]["user_id"])
    admin.keyboard.press("w")
    expect(admin.get_by_label("Decision")).to_have_value("write_off")
    admin.get_by_label("Reason").focus()
    admin.keyboard.type(WHY)
    admin.keyboard.press("Tab")
    admin.keyboard.press("Enter")
    expect(admin.get_by_role("row", name="State of the session review settled")).to_be_visible()
    assert now(stage, sessions[0])["state"] == "review"
    expect(admin.get_by_role("button", name="Decide so")).to_be_focused()
    admin.keyboard.press("Enter")
    expect(admin.get_by_role("status")).to_have_text("The review was decided.")
    expect(queue).to_have_count(len(waiting) - 1)
    decided = now(stage, sessions[0])
    assert (decided["state"], decided["written_off"], decided["charged"]) == ("settled", True, "0")
    why = ask(stage.world.service.database.conninfo, f"select reason from audit_log where target = '{decided['id']}'")
    assert (WHY,) in why


def test_settled_it_is_charged_what_was_shown(admin: Page, stage: Stage) -> None:
    session = in_review(stage)
    admin.goto(f"/admin/reviews?session={session['id']}")
    expect(admin.get_by_text("longer than the time that passed").first).to_be_visible()
    told = admin.locator("#review [data-key=s]").inner_text().removeprefix("Settle at ")
    admin.locator("#review [data-key=s]").click()
    admin.get_by_label("Reason").fill(WHY)
    admin.get_by_role("button", name="See what it comes to").click()
    admin.get_by_role("button", name="Decide so").click()
    expect(admin.get_by_role("status")).to_be_visible()
    assert now(stage, session)["charged"] == told
    admin.goto(f"/admin/reviews?session={session['id']}")
    expect(admin.get_by_text("It does not wait for a decision any more.")).to_be_visible()


def test_of_two_who_decide_the_second_is_told(visitor: Callable[..., Page], stage: Stage) -> None:
    session = in_review(stage)
    first, second = sign_in(visitor()), sign_in(visitor())
    for page, action in ((first, "write_off"), (second, "settle")):
        page.goto(f"/admin/sessions/{session['id']}/review?action={action}")
        page.get_by_label("Reason").fill(WHY)
        page.get_by_role("button", name="See what it comes to").click()
        expect(page.get_by_role("button", name="Decide so")).to_be_visible()
    first.get_by_role("button", name="Decide so").click()
    expect(first.get_by_role("status")).to_be_visible()
    second.get_by_role("button", name="Decide so").click()
    expect(second.get_by_role("alert")).to_contain_text("The session is settled")
    assert now(stage, session)["written_off"] is True


def test_a_charge_is_given_back_in_part_and_never_more(admin: Page, stage: Stage) -> None:
    session = settled(stage)
    admin.goto(f"/admin/sessions/{session['id']}")
    admin.get_by_role("link", name="Give back").click()
    admin.get_by_label("Amount").fill("1000")
    admin.get_by_label("Reason").fill(WHY)
    admin.get_by_role("button", name="See what it comes to").click()
    expect(admin.get_by_role("alert")).to_contain_text("credits of the charge are left")
    admin.get_by_label("Amount").fill("2.5")
    admin.get_by_role("button", name="See what it comes to").click()
    expect(admin.get_by_text("2.5 credits")).to_be_visible()
    admin.get_by_role("button", name="Give it back").click()
    expect(admin.get_by_role("status")).to_be_visible()
    expect(admin.get_by_text("2.5 of it given back")).to_be_visible()


def test_a_session_is_rated_again(admin: Page, stage: Stage) -> None:
    session = settled(stage)
    stage.world.provider.say(session["provider_session_id"], ("user", 10), ("agent", 24))
    admin.goto(f"/admin/sessions/{session['id']}/rerate")
    admin.get_by_label("Rate card").fill("no such card")
    admin.get_by_label("Reason").fill(WHY)
    admin.get_by_role("button", name="See what it comes to").click()
    expect(admin.get_by_text("Rate card is neither the id of a rate card")).to_be_visible()
    admin.get_by_label("Rate card").fill("")
    admin.get_by_role("button", name="See what it comes to").click()
    expect(admin.get_by_text("Difference", exact=True)).to_be_visible()
    admin.get_by_role("button", name="Post the difference").click()
    expect(admin.get_by_role("status")).to_be_visible()


def test_a_timeline_is_pulled_at_once(admin: Page, stage: Stage) -> None:
    world = stage.world

    async def make() -> dict[str, Any]:
        user = world.user()
        await world.grant(user, "1000")
        return await world.start(user, time_limit_s=300)

    session = stage.run(make())
    world.provider.say(session["provider_session_id"], ("user", 0))
    admin.goto(f"/admin/sessions/{session['id']}")
    before = len(world.provider.pulls)
    admin.get_by_role("button", name="Pull now").click()
    expect(admin.get_by_role("status")).to_have_text("The timeline was pulled.")
    assert len(world.provider.pulls) == before + 1
    del world.provider.timelines[session["provider_session_id"]]
    admin.get_by_role("button", name="Pull now").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("The provider's timeline could not be had")
