"""An address of each page that can be looked at. A page without an example fails the tests that look at all of them."""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from tests.support.furnished import Furnished

EXAMPLES: Final[Mapping[str, Callable[[Furnished], str]]] = {
    "/admin": lambda _: "/admin",
    "/admin/admins": lambda _: "/admin/admins",
    "/admin/admins/new": lambda _: "/admin/admins/new",
    "/admin/admins/{name}": lambda found: f"/admin/admins/{found.admin}",
    "/admin/admins/{name}/password": lambda found: f"/admin/admins/{found.admin}/password",
    "/admin/api-keys": lambda _: "/admin/api-keys",
    "/admin/api-keys/new": lambda _: "/admin/api-keys/new",
    "/admin/api-keys/{key_id}/revoke": lambda found: f"/admin/api-keys/{found.key}/revoke",
    "/admin/audit-log": lambda _: "/admin/audit-log",
    "/admin/dead-letters": lambda _: "/admin/dead-letters",
    "/admin/endpoints": lambda _: "/admin/endpoints",
    "/admin/endpoints/new": lambda _: "/admin/endpoints/new",
    "/admin/endpoints/{endpoint_id}": lambda found: f"/admin/endpoints/{found.endpoint}",
    "/admin/endpoints/{endpoint_id}/change": lambda found: f"/admin/endpoints/{found.endpoint}/change",
    "/admin/endpoints/{endpoint_id}/delete": lambda found: f"/admin/endpoints/{found.endpoint}/delete",
    "/admin/endpoints/{endpoint_id}/deliveries/{event_id}": lambda found: (
        f"/admin/endpoints/{found.endpoint}/deliveries/{found.event}"
    ),
    "/admin/endpoints/{endpoint_id}/deliveries/{event_id}/again": lambda found: (
        f"/admin/endpoints/{found.endpoint}/deliveries/{found.event}/again"
    ),
    "/admin/endpoints/{endpoint_id}/replay": lambda found: f"/admin/endpoints/{found.endpoint}/replay",
    "/admin/endpoints/{endpoint_id}/retry": lambda found: f"/admin/endpoints/{found.endpoint}/retry",
    "/admin/endpoints/{endpoint_id}/rotate": lambda found: f"/admin/endpoints/{found.endpoint}/rotate",
    "/admin/endpoints/{endpoint_id}/test": lambda found: f"/admin/endpoints/{found.endpoint}/test",
    "/admin/events": lambda _: "/admin/events",
    "/admin/figures": lambda _: "/admin/figures",
    "/admin/find": lambda found: f"/admin/find?q={quote(found.hostile_user, safe='')}",
    "/admin/grants/{grant_id}/void": lambda found: f"/admin/grants/{found.grants['paid']['id']}/void",
    "/admin/payments": lambda _: "/admin/payments",
    "/admin/payments/{payment_id}": lambda found: f"/admin/payments/{found.payment}",
    "/admin/payments/{payment_id}/resolve": lambda found: f"/admin/payments/{found.payment}/resolve",
    "/admin/reviews": lambda _: "/admin/reviews",
    "/admin/reviews/{session_id}": lambda found: f"/admin/reviews/{found.sessions['review']['id']}",
    "/admin/sessions/{session_id}/refund": lambda found: f"/admin/sessions/{found.sessions['settled']['id']}/refund",
    "/admin/sessions/{session_id}/rerate": lambda found: f"/admin/sessions/{found.sessions['settled']['id']}/rerate",
    "/admin/sessions/{session_id}/review": lambda found: f"/admin/sessions/{found.sessions['review']['id']}/review",
    "/admin/sessions": lambda _: "/admin/sessions",
    "/admin/sessions/{session_id}": lambda found: f"/admin/sessions/{found.sessions['settled']['id']}",
    "/admin/sessions/{session_id}/bodies/{sha256}": lambda found: (
        f"/admin/sessions/{found.sessions['settled']['id']}/bodies/{found.body}"
    ),
    "/admin/sessions/{session_id}/evidence.zip": lambda found: (
        f"/admin/sessions/{found.sessions['settled']['id']}/evidence.zip"
    ),
    "/admin/sessions/{session_id}/picture": lambda found: (
        f"/admin/sessions/{found.sessions['settled']['id']}/picture?from=5&to=25"
    ),
    "/admin/sessions/{session_id}/pulls": lambda found: f"/admin/sessions/{found.sessions['settled']['id']}/pulls",
    "/admin/sessions/{session_id}/replay": lambda found: f"/admin/sessions/{found.sessions['settled']['id']}/replay",
    "/admin/rate-cards": lambda _: "/admin/rate-cards",
    "/admin/rate-cards/new": lambda found: f"/admin/rate-cards/new?from={found.cards['evening']['id']}",
    "/admin/rate-cards/versions": lambda found: (
        f"/admin/rate-cards/versions?name={quote(found.cards['hostile']['name'], safe='')}"
    ),
    "/admin/sign-in": lambda _: "/admin/sign-in",
    "/admin/sign-in/link": lambda found: f"/admin/sign-in/link?token={found.link}",
    "/admin/system": lambda _: "/admin/system",
    "/admin/system/faults": lambda _: "/admin/system/faults",
    "/admin/system/starts": lambda _: "/admin/system/starts",
    "/admin/users": lambda _: "/admin/users?sort=available",
    "/admin/users/{user_id}": lambda found: f"/admin/users/{found.user}",
    "/admin/users/{user_id}/adjust": lambda found: f"/admin/users/{found.user}/adjust",
    "/admin/users/{user_id}/alerts": lambda found: f"/admin/users/{found.user}/alerts",
    "/admin/users/{user_id}/curve.json": lambda found: f"/admin/users/{found.user}/curve.json",
    "/admin/users/{user_id}/grant": lambda found: f"/admin/users/{found.user}/grant",
    "/admin/users/{user_id}/grants": lambda found: f"/admin/users/{found.user}/grants",
    "/admin/users/{user_id}/limits": lambda found: f"/admin/users/{found.user}/limits",
    "/admin/users/{user_id}/portal-link": lambda found: f"/admin/users/{found.user}/portal-link",
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
        "/admin/reviews/{session_id}",
        "/admin/sessions/{session_id}/bodies/{sha256}",
        "/admin/sessions/{session_id}/evidence.zip",
        "/admin/sessions/{session_id}/picture",
        "/admin/sessions/{session_id}/pulls",
        "/admin/sessions/{session_id}/replay",
        "/admin/system/faults",
        "/admin/users/{user_id}/curve.json",
        "/admin/users/{user_id}/statement.csv",
        "/admin/what-if/{simulation_id}/now",
    }
)
"""Parts of pages, and files, which nobody looks at by themselves."""

PORTAL: Final[Mapping[str, Callable[[Furnished], str]]] = {
    "/portal": lambda _: "/portal",
    "/portal/sessions": lambda _: "/portal/sessions",
    "/portal/sessions/{session_id}": lambda found: f"/portal/sessions/{found.sessions['settled']['id']}",
    "/portal/statement": lambda _: "/portal/statement",
}
"""The same of the user's portal; its one file is ``/portal/statement.csv``."""
