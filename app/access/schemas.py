"""What the calls of keys, user tokens and the audit log answer."""

from typing import Final

from app.core.access import Scope
from app.core.ids import Kind
from app.errors import IDEMPOTENCY_CONFLICT, IDEMPOTENCY_EXPIRED, IDEMPOTENCY_IN_FLIGHT, NOT_FOUND
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
    "name": text("billing backend", longest=128),
    "scopes": listed(one_of(Scope), "What it may do."),
    "created_at": instant("When it was made."),
    "expires_at": or_null(instant("When it ends; null: when it is revoked.")),
    "last_used_at": or_null(instant("When it was last used, to the minute or so.")),
    "revoked_at": or_null(instant("When it was revoked.")),
}
_TOKEN: Final = record(
    {
        "user_id": text("ada", longest=128),
        "expires_at": instant("When it ends."),
        "token": or_null(text("eyJhbGciOiJIUzI1NiJ9.e30.…", "Null where it is not given again.")),
    }
)
_AUDIT: Final = record(
    {
        "id": public_id(Kind.AUDIT),
        "at": instant("When it was done."),
        "actor": text("key_0gxajfv4rwp28nnhtwyrtcpeqc", "Who did it."),
        "action": text("grant.create", "What was done."),
        "target": text("grt_0gxajfv4rwp28nnhtwyrtcpeqc", "To what."),
        "user_id": or_null(text("ada", "Whose account it is about.")),
        "before": or_null(any_object("What changed, as it was.")),
        "after": or_null(any_object("What changed, as it is.")),
        "reason": or_null(text("goodwill after a dropped call")),
        "request_id": or_null(text("req_0123456789ab00000001", "As in `X-Request-Id` of the answer.")),
        "address": or_null(text("192.0.2.1", "Where the request came from.")),
    }
)
_KEYED: Final = (IDEMPOTENCY_CONFLICT, IDEMPOTENCY_IN_FLIGHT, IDEMPOTENCY_EXPIRED)

ACCESS: Final = Described(
    schemas={
        "ApiKey": record(_KEY),
        "ApiKeyPage": page_of("ApiKey"),
        "NewApiKey": record(
            {**_KEY, "secret": or_null(text("ttk_…", "The key itself. Null where it is not given again."))}
        ),
        "UserToken": _TOKEN,
        "AuditRow": _AUDIT,
        "AuditPage": page_of("AuditRow"),
    },
    operations={
        "GET /v1/api-keys": Operation(
            description="All keys, newest first; revoked and expired ones too.",
            answers={200: replies("A page of keys.", ref("ApiKeyPage"))},
            parameters=PAGED,
        ),
        "POST /v1/api-keys": Operation(
            description="Makes a key. Its secret is shown this once.",
            answers={201: replies("The key.", ref("NewApiKey"))},
            problems=_KEYED,
            idempotent=True,
        ),
        "DELETE /v1/api-keys/{key_id}": Operation(
            description="Revokes a key at once. May be repeated at will.",
            answers={200: replies("The key.", ref("ApiKey"))},
            problems=(NOT_FOUND,),
            parameters={"key_id": public_id("key", "The key's id.")},
        ),
        "POST /v1/users/{user_id}/tokens": Operation(
            description="Issues a token with which the user's own front end reaches that user's things.",
            answers={201: replies("The token.", ref("UserToken"))},
            problems=_KEYED,
            parameters={"user_id": USER_ID},
            idempotent=True,
            example={"ttl_s": 900},
        ),
        "GET /v1/audit-log": Operation(
            description="Who changed what, newest first.",
            answers={200: replies("A page of the audit log.", ref("AuditPage"))},
            parameters={
                **PAGED,
                "user_id": text("ada", "Changes of this user.", longest=128),
                "actor": text("bootstrap", "Changes by this actor."),
                "action": text("grant.create", "Changes of this kind."),
                "target": text("settings", "Changes to this."),
                "request_id": text("req_0123456789ab00000001", "Changes by this request."),
                "after": instant("Done then or later."),
                "before": instant("Done earlier than that."),
            },
        ),
    },
)
