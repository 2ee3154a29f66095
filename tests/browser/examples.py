"""An address of each page that can be looked at. A page without an example fails the tests that look at all of them."""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from tests.support.furnished import Furnished

EXAMPLES: Final[Mapping[str, Callable[[Furnished], str]]] = {
    "/admin": lambda _: "/admin",
    "/admin/figures": lambda _: "/admin/figures",
    "/admin/find": lambda found: f"/admin/find?q={quote(found.hostile_user, safe='')}",
    "/admin/grants/{grant_id}/void": lambda found: f"/admin/grants/{found.grants['paid']['id']}/void",
    "/admin/rate-cards": lambda _: "/admin/rate-cards",
    "/admin/rate-cards/new": lambda found: f"/admin/rate-cards/new?from={found.cards['evening']['id']}",
    "/admin/rate-cards/versions": lambda found: (
        f"/admin/rate-cards/versions?name={quote(found.cards['hostile']['name'], safe='')}"
    ),
    "/admin/sign-in": lambda _: "/admin/sign-in",
    "/admin/users": lambda _: "/admin/users?sort=available",
    "/admin/users/{user_id}": lambda found: f"/admin/users/{found.user}",
    "/admin/users/{user_id}/adjust": lambda found: f"/admin/users/{found.user}/adjust",
    "/admin/users/{user_id}/alerts": lambda found: f"/admin/users/{found.user}/alerts",
    "/admin/users/{user_id}/curve.json": lambda found: f"/admin/users/{found.user}/curve.json",
    "/admin/users/{user_id}/grant": lambda found: f"/admin/users/{found.user}/grant",
    "/admin/users/{user_id}/grants": lambda found: f"/admin/users/{found.user}/grants",
    "/admin/users/{user_id}/limits": lambda found: f"/admin/users/{found.user}/limits",
    "/admin/users/{user_id}/statement": lambda found: f"/admin/users/{found.user}/statement",
    "/admin/users/{user_id}/statement.csv": lambda found: f"/admin/users/{found.user}/statement.csv",
    "/admin/users/{user_id}/token": lambda found: f"/admin/users/{found.user}/token",
    "/admin/what-if": lambda _: "/admin/what-if",
    "/admin/what-if/new": lambda found: f"/admin/what-if/new?rate_card={found.cards['hostile']['id']}",
    "/admin/what-if/{simulation_id}": lambda found: f"/admin/what-if/{found.simulation['id']}",
    "/admin/what-if/{simulation_id}/now": lambda found: f"/admin/what-if/{found.simulation['id']}/now",
}
PIECES: Final = frozenset(
    {
        "/admin/figures",
        "/admin/users/{user_id}/curve.json",
        "/admin/users/{user_id}/statement.csv",
        "/admin/what-if/{simulation_id}/now",
    }
)
"""Parts of pages, and files, which nobody looks at by themselves."""
