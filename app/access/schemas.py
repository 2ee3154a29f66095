"""What the calls for keys, tokens and the audit log answer."""

from typing import Final

from app.core.access import Scope
from app.errors import NOT_FOUND
from app.http.schemas import (
    PAGED,
    USER_ID,
    Described,
    Operation,
    any_object,
    instant,
    listed,
    one_of,
    or_null,
    page_of,
    public_id,
    record,
    ref,
    replies,
    text,
)

_KEY: Final = {
    "id": public_id("key"),
    "name": text("backend", longest=128),
    "scopes": listed(one_of(Scope), "What it may do; `admin` includes all others."),
    "created_at": instant("When it was made."),
    "expires_at": or_null(instant("From when on it is refused; null: never.")),
    "last_used_at": or_null(instant("When it was last used, as of some seconds ago; null: never.")),
    "revoked_at": or_null(instant("When it was revoked; null: it was not.")),
}

ACCESS: Final = Described(
    schemas={
        "ApiKey": record(_KEY),
        "NewApiKey": record({**_KEY, "secret": or_null(text("ttk_0123…", "Given this once, and kept nowhere."))}),
        "ApiKeyPage": page_of("ApiKey"),
        "UserToken": record(
            {
                "user_id": text("ada", "Whose things it reaches.", longest=128),
                "token": or_null(text("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2ln", "A JWT.")),
                "expires_at": instant("From when on it is refused."),
            }
        ),
        "PortalLink": record(
            {
                "user_id": text("ada", "Whose portal it opens.", longest=128),
                "url": or_null(text("https://talktime.example/portal?token=eyJhbGci…", "The link.")),
                "expires_at": instant("From when on it opens nothing."),
            }
        ),
        "AuditRow": record(
            {
                "id": public_id("aud"),
                "at": instant("When."),
                "actor": text("key_01a20bdcff6678f98da40a5fca", "Who: a key's id, `user:…`, `bootstrap`, `cli:…`."),
                "action": text("grant.create", "What was done."),
                "target": text("grt_0…", "To what."),
                "user_id": or_null(text("ada", "Whose account it concerns.", longest=128)),
                "before": or_null(any_object("What changed, as it was.")),
                "after": or_null(any_object("What changed, as it is.")),
                "reason": or_null(text("goodwill after a dropped call", "As it was given.")),
                "request_id": or_null(text("req_4f1c2a9b0d3e00000001", "The `X-Request-Id` of the request.")),
                "address": or_null(text("192.0.2.7", "Where the request came from.")),
            }
        ),
        "AuditPage": page_of("AuditRow"),
    },
    operations={
        "GET /v1/api-keys": Operation(
            description="Revoked and expired ones too. No secrets.",
            answers={200: replies("A page of keys.", ref("ApiKeyPage"))},
            parameters=PAGED,
        ),
        "POST /v1/api-keys": Operation(
            description="The answer holds the secret, this once.",
            answers={201: replies("The key, with its secret.", ref("NewApiKey"))},
            idempotent=True,
        ),
        "DELETE /v1/api-keys/{key_id}": Operation(
            description="It is refused from now on, everywhere. One that is revoked already stays as it is.",
            answers={200: replies("The key.", ref("ApiKey"))},
            problems=(NOT_FOUND,),
            parameters={"key_id": public_id("key", "The key's id, not its secret.")},
            idempotent=True,
        ),
        "POST /v1/users/{user_id}/tokens": Operation(
            description="A short-lived token with which a user's own front end reaches that user's own things.",
            answers={201: replies("The token.", ref("UserToken"))},
            parameters={"user_id": USER_ID},
            idempotent=True,
            example={"ttl_s": 900},
        ),
        "POST /v1/users/{user_id}/portal-links": Operation(
            description="A link that opens the user's portal, and nothing else, for as long as it lasts.",
            answers={201: replies("The link.", ref("PortalLink"))},
            parameters={"user_id": USER_ID},
            idempotent=True,
            example={"ttl_s": 900},
        ),
        "GET /v1/audit-log": Operation(
            description="Every change by a key, a user or a command, newest first.",
            answers={200: replies("A page of the audit log.", ref("AuditPage"))},
            parameters={
                **PAGED,
                "user_id": {**USER_ID, "description": "Only what concerns this user's account."},
                "actor": text("bootstrap", "Only what this one did."),
                "action": text("grant.create", "Only what was done so."),
                "target": text("grt_0…", "Only what was done to this."),
                "request_id": text("req_4f1c2a9b0d3e00000001", "Only what this request did."),
                "after": instant("From this instant on."),
                "before": instant("Before this instant."),
            },
        ),
    },
)
