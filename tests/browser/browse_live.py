"""The user's portal keeps itself up to date: what happens elsewhere shows without a reload, also after a cut."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.live.frames import End
from app.live.hub import Hub, Listener
from tests.browser.browse_portal import link
from tests.browser.conftest import PATIENCE_MS, Stage, violations

OPEN = "main[data-stream=open]"
DOCUMENT = Path(__file__).parents[2] / "docs" / "live-balance.md"
CODE = "\n".join(re.findall(r"^```js\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
FOLLOW = """
([userId, tokens]) => {
  const told = (window.told = { states: [], ends: [], asked: 0 });
  window.stop = followBalance({
    baseUrl: location.origin,
    userId,
    getToken: async () => tokens[Math.min(told.asked++, tokens.length - 1)],
    onState: (state) => told.states.push({ state, left: secondsLeft(state, performance.now() - 3000) }),
    onEnd: (end) => told.ends.push(end),
  });
}
"""


class Watched:
    """A user whose portal is open and listening."""

    def __init__(self, stage: Stage, page: Page, user: str) -> None:
        self.stage = stage
        self.page = page
        self.user = user

    @property
    def hub(self) -> Hub:
        return self.stage.world.service.live

    def listeners(self) -> list[Listener]:
        return [one for feed in self.hub._feeds.values() for one in feed.listeners if feed.user_id == self.user]

    def look(self) -> None:
        self.stage.run(self.hub.look())

    def grant(self, amount: str) -> None:
        """Elsewhere: by the API."""
        self.stage.run(self.stage.world.grant(self.user, amount))
        self.look()

    def do(self, what: Callable[[Listener], object]) -> None:
        async def all_of_them() -> None:
            for listener in self.listeners():
                what(listener)

        self.stage.run(all_of_them())

    def available(self) -> Any:
        return self.page.locator("[data-say]").first.locator(".value")


@pytest.fixture
def watched(visitor: Callable[..., Page], stage: Stage) -> Watched:
    user = stage.world.user()
    stage.run(stage.world.grant(user, "50"))
    page = visitor()
    page.goto(link(stage, user))
    page.wait_for_selector(OPEN)
    page.evaluate("window.neverLoadedAgain = true")
    found = Watched(stage, page, user)
    found.look()
    found.look()
    return found


def test_a_grant_made_elsewhere_shows_without_a_reload(watched: Watched) -> None:
    expect(watched.available()).to_have_text("50 credits")
    watched.grant("7")
    expect(watched.available()).to_have_text("57 credits")
    expect(watched.page.get_by_role("row", name="Credits added +7 57")).to_be_visible()
    assert watched.page.evaluate("window.neverLoadedAgain") is True
    assert violations(watched.page) == []


def test_so_it_does_after_the_stream_was_cut(watched: Watched) -> None:
    watched.do(lambda listener: listener.cut_off())
    watched.page.wait_for_selector("main:not([data-stream=open])")
    watched.grant("7")
    # Without a further change: what happened while nobody listened is told to whoever comes again.
    expect(watched.available()).to_have_text("57 credits")
    watched.page.wait_for_selector(OPEN)
    watched.grant("1")
    expect(watched.available()).to_have_text("58 credits")
    assert watched.page.evaluate("window.neverLoadedAgain") is True


def test_and_after_the_server_ended_it(watched: Watched) -> None:
    watched.do(lambda listener: listener.finish(End.STOPPING))
    watched.page.wait_for_selector("main:not([data-stream=open])")
    watched.page.wait_for_selector(OPEN)
    watched.grant("7")
    expect(watched.available()).to_have_text("57 credits")


def test_it_does_not_come_again_when_it_may_not(watched: Watched) -> None:
    watched.do(lambda listener: listener.finish(End.TOKEN_EXPIRED))
    watched.page.wait_for_selector("main[data-stream=ended]")
    watched.page.wait_for_timeout(3_000)
    assert watched.listeners() == []


def test_it_is_said_once_to_who_does_not_look(watched: Watched) -> None:
    status = watched.page.get_by_role("status")
    expect(status).to_have_text("")
    watched.grant("7")
    expect(status).to_have_text("Available: 57 credits")
    watched.grant("1")
    expect(watched.available()).to_have_text("58 credits")
    expect(status).to_have_text("Available: 57 credits")
    expect(status).to_have_text("Available: 58 credits")


def test_a_session_that_starts_elsewhere_counts_down_by_itself(watched: Watched) -> None:
    watched.grant("950")
    session = watched.stage.run(watched.stage.world.start(watched.user, time_limit_s=600))
    watched.look()
    row = watched.page.get_by_role("link", name="tutor running")
    expect(row).to_be_visible()
    expect(row).to_contain_text("at most 9 min 5")
    row.focus()
    requests: list[str] = []
    watched.page.on("request", lambda request: requests.append(request.url))
    expect(row).to_contain_text("at most 9 min 57 s left")
    assert requests == []
    watched.grant("1")
    expect(watched.page.locator("[data-part=statement]")).to_contain_text("1,001")
    expect(watched.page.get_by_role("link", name="tutor running")).to_be_focused()
    watched.page.goto(f"/portal/sessions/{session['id']}")
    watched.page.wait_for_selector(OPEN)
    watched.stage.world.provider.say(session["provider_session_id"], ("agent", 5))
    watched.stage.run(watched.stage.world.settle(session))
    watched.look()
    expect(watched.page.get_by_role("heading", level=1)).not_to_contain_text("running")


def test_a_page_that_nobody_sees_holds_no_stream(watched: Watched) -> None:
    hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    hide += "document.dispatchEvent(new Event('visibilitychange'))"
    watched.page.evaluate(hide % "true")
    watched.page.wait_for_selector("main[data-stream=closed]")
    watched.grant("7")
    expect(watched.available()).to_have_text("50 credits")
    watched.page.evaluate(hide % "false")
    expect(watched.available()).to_have_text("57 credits")


def test_without_scripts_it_is_what_it_was(visitor: Callable[..., Page], stage: Stage) -> None:
    user = stage.world.user()
    stage.run(stage.world.grant(user, "50"))
    page = visitor(java_script_enabled=False)
    page.goto(link(stage, user))
    expect(page.get_by_text("50 credits", exact=True).first).to_be_visible()
    stage.run(stage.world.grant(user, "7"))
    page.reload()
    expect(page.get_by_text("57 credits", exact=True).first).to_be_visible()


class Following:
    """The code that the documents give to front ends, at work in a page."""

    def __init__(self, page: Page, user: str, tokens: list[str]) -> None:
        self._page = page
        code = CODE.replace("export ", "")
        page.evaluate(f"{code}; Object.assign(window, {{ followBalance, secondsLeft }})")
        page.evaluate(FOLLOW, [user, tokens])

    def balances(self) -> Any:
        return self._page.evaluate("told.states.map(({ state }) => state.balance)")

    def until(self, condition: str) -> None:
        """Wait for what becomes true in the page, whose policy lets the driver wait there for nothing."""
        for _ in range(PATIENCE_MS // 50):
            if self._page.evaluate(condition):
                return
            self._page.wait_for_timeout(50)
        raise AssertionError(f"{condition} did not become true: {self._page.evaluate('told')}")


def test_the_code_for_front_ends_follows_through_cuts_and_expiry(watched: Watched) -> None:
    world, user = watched.stage.world, watched.user

    def token(ttl_s: int) -> str:
        asked = world.client.post(f"/v1/users/{user}/tokens", json={"ttl_s": ttl_s})
        return str(watched.stage.run(asked).json()["token"])

    short, long = token(60), token(3_600)
    # A page of its own, or the portal's stream would be ended with it.
    watched.page.goto("/portal/statement")
    followed = Following(watched.page, user, [short, long])
    followed.until("told.states.length === 1")
    watched.grant("950")
    watched.stage.run(world.start(user, time_limit_s=600))
    watched.look()
    followed.until("told.states.at(-1).state.sessions[0]?.state === 'live'")
    assert watched.page.evaluate("told.states.at(-1).left") == 597
    number = len(followed.balances())
    watched.do(lambda listener: listener.cut_off())
    watched.grant("1")
    followed.until("told.states.at(-1).state.balance === '1001'")
    # What was seen before the cut was not told again.
    assert len(followed.balances()) == number + 1
    world.clock.advance(61)
    watched.stage.run(watched.hub.beat())
    followed.until("told.asked === 2")
    watched.grant("1")
    followed.until("told.states.at(-1).state.balance === '1002'")
    suspend = {"suspended": True, "reason": "r"}
    watched.stage.run(world.client.patch(f"/v1/users/{user}", json=suspend))
    watched.look()
    followed.until("told.ends.length === 1")
    assert watched.page.evaluate("told.ends") == [{"reason": "user-suspended", "reconnect": False}]
    assert watched.listeners() == []
    watched.stage.run(world.client.patch(f"/v1/users/{user}", json={"suspended": False, "reason": "r"}))


def test_the_code_for_front_ends_says_why_it_may_not(watched: Watched) -> None:
    watched.page.goto("/portal/statement")
    followed = Following(watched.page, watched.user, ["nonsense"])
    followed.until("told.ends.length === 1")
    assert watched.page.evaluate("told.ends[0].status") == 401
    assert watched.page.evaluate("told.asked") == 1


def test_the_code_for_front_ends_can_be_stopped(watched: Watched) -> None:
    watched.page.goto("/portal/statement")
    answer = watched.stage.world.client.post(f"/v1/users/{watched.user}/tokens", json={"ttl_s": 60})
    followed = Following(watched.page, watched.user, [str(watched.stage.run(answer).json()["token"])])
    followed.until("told.states.length === 1")
    watched.page.evaluate("stop()")
    watched.page.wait_for_timeout(1_000)
    assert watched.listeners() == []
