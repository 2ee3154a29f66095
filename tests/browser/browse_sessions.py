"""Looking at sessions as a person does: why this one costs what it costs."""

from playwright.sync_api import Page, expect

from app.settlement.evidence_check import check_evidence
from tests.browser.conftest import Stage
from tests.support.furnished import HOSTILE
from tests.support.invariants import LEDGER_KEYS

MOST_BYTES = 150_000


def session(stage: Stage, name: str) -> str:
    return f"/admin/sessions/{stage.found.sessions[name]['id']}"


def test_from_the_overview_to_the_session(admin: Page, stage: Stage) -> None:
    admin.get_by_role("link", name="1", exact=True).first.click()
    expect(admin.get_by_label("State")).to_have_value("live")
    expect(admin.locator("tbody tr")).to_have_count(1)
    admin.locator("tbody a").first.click()
    expect(admin.get_by_role("heading", level=1)).to_contain_text("live")
    expect(admin.get_by_text("Accrued so far", exact=True)).to_be_visible()


def test_the_list_is_filtered_and_wrong_filters_say_so(admin: Page, stage: Stage) -> None:
    admin.goto("/admin/sessions")
    admin.get_by_label("User", exact=True).fill(stage.found.user)
    admin.get_by_role("button", name="Show").click()
    expect(admin.locator("tbody tr")).to_have_count(4)
    admin.get_by_label("Started from").fill("a while ago")
    admin.get_by_role("button", name="Show").click()
    expect(admin.get_by_role("alert")).to_contain_text("After: must be an RFC 3339 instant")
    expect(admin.get_by_label("Started from")).to_have_value("a while ago")


def test_the_charge_is_explained(admin: Page, stage: Stage) -> None:
    admin.goto(session(stage, "settled"))
    expect(admin.get_by_role("row", name="user 21 s 60 21")).to_be_visible()
    expect(admin.get_by_role("row", name="in all 90.5")).to_be_visible()
    expect(admin.get_by_text("59 s: long silence")).to_be_visible()
    expect(admin.get_by_role("listitem").filter(has_text="the final timeline is in")).to_be_visible()
    expect(admin.get_by_text("identical")).to_be_visible()
    expect(admin.get_by_text("grant …")).not_to_have_count(0)
    picture = admin.get_by_role("img", name="Session ses_")
    expect(picture).to_be_visible()
    assert "90.5 credits" in (picture.locator("desc").text_content() or "")


def test_a_part_of_the_time_is_looked_at_closer(admin: Page, stage: Stage) -> None:
    admin.goto(session(stage, "settled"))
    picture = admin.locator(".picture svg")
    whole = picture.get_attribute("data-to")
    admin.get_by_role("link", name="Closer").click()
    expect(picture).not_to_have_attribute("data-to", whole or "")
    admin.get_by_role("link", name="All of it").click()
    expect(picture).to_have_attribute("data-to", whole or "")
    box = picture.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    admin.mouse.move(box["x"] + box["width"] * 0.3, y)
    admin.mouse.down()
    admin.mouse.move(box["x"] + box["width"] * 0.5, y, steps=4)
    admin.mouse.up()
    expect(picture).not_to_have_attribute("data-from", "0")
    assert "from=" in admin.url
    admin.reload()
    expect(picture).not_to_have_attribute("data-from", "0")
    admin.get_by_role("link", name="Later").click()
    expect(admin.get_by_role("link", name="Earlier")).to_be_visible()


def test_the_evidence_is_taken_along_and_holds(admin: Page, stage: Stage) -> None:
    admin.goto(session(stage, "settled"))
    with admin.expect_download() as saved:
        admin.get_by_role("link", name="Evidence file").click()
    found = check_evidence(saved.value.path().read_bytes(), LEDGER_KEYS)
    assert [(one.fault, one.left_out) for one in found] == [(None, None)] * 6
    admin.get_by_text("What the provider answered").click()
    with admin.expect_download() as answer:
        admin.get_by_role("link", name="page 1").first.click()
    assert b'"values"' in answer.value.path().read_bytes()


def test_a_review_says_what_it_would_come_to(admin: Page, stage: Stage) -> None:
    admin.goto(session(stage, "review"))
    expect(admin.get_by_text("It waits for a decision")).to_be_visible()
    expect(admin.get_by_text("the evidence contradicts itself").first).to_be_visible()


def test_hostile_texts_are_only_text(admin: Page, stage: Stage) -> None:
    admin.goto(session(stage, "hostile"))
    expect(admin.get_by_role("heading", level=1)).to_contain_text(HOSTILE[:100])
    expect(admin.locator(".facts").get_by_text("alert(1)")).to_be_visible()


def test_hours_and_thousands_of_segments_stay_light(admin: Page, stage: Stage) -> None:
    world = stage.world

    async def long() -> str:
        user = world.user()
        await world.grant(user, "9000")
        made = await world.start(user, time_limit_s=3600)
        parts = [(kind, "0.8") for _ in range(1_400) for kind in ("user", "agent", "silence")]
        world.provider.say(made["provider_session_id"], *parts)
        await world.heartbeats_until(made, 3_600)
        world.provider.say(made["provider_session_id"], *parts, ("silence", 200))
        await world.settle(made)
        return str(made["id"])

    session_id = stage.run(long())
    answer = admin.goto(f"/admin/sessions/{session_id}")
    assert answer is not None
    assert len(answer.body()) < MOST_BYTES
    expect(admin.get_by_role("img", name="Session ses_")).to_be_visible()
    admin.goto(f"/admin/sessions/{session_id}?from=100&to=130")
    expect(admin.locator(".picture svg")).to_have_attribute("data-from", "100000000")


def test_a_session_that_is_not_there(admin: Page) -> None:
    for address in ("/admin/sessions/ses_nothing", "/admin/sessions/ses_" + "0" * 52):
        answer = admin.goto(address)
        assert answer is not None
        assert answer.status == 404
        expect(admin.get_by_role("heading", level=1)).to_have_text("There is nothing here")
