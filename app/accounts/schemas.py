"""What the calls of users and settings answer."""

from typing import Any, Final

from app.accounts.bulk import Outcome
from app.accounts.recurring import Leftover, SeriesState
from app.accounts.statements import CSV_HEADER
from app.accounts.users import UserSort
from app.core.alerts import Level
from app.core.entries import EntryKind
from app.core.ledger import GrantKind, GrantState
from app.core.recurrence import Period
from app.errors import (
    BELOW_FLOOR,
    GRANT_CLOSED,
    GRANT_SPENT,
    NOT_FOUND,
    RECURRING_GRANT_OVER,
    REFERENCE_CONFLICT,
    TOO_MANY_RECURRING_GRANTS,
)
from app.http.schemas import (
    PAGED,
    USER_ID,
    Described,
    Operation,
    amount,
    any_object,
    csv_of,
    duration,
    flag,
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
    whole,
)

_GRANT: Final = {
    "id": public_id("grt"),
    "user_id": text("ada", longest=128),
    "kind": one_of(GrantKind),
    "state": one_of(GrantState),
    "priority": whole("Lower is used first.", 50),
    "amount": amount("What was granted.", "100"),
    "remaining": amount("What is left of it.", "78.429"),
    "held": amount("How much of that running sessions hold.", "0"),
    "effective_at": instant("From when on it counts."),
    "expires_at": or_null(instant("Until when it counts.")),
    "cost_basis": or_null(amount("Money per credit, for your books.", "0.1")),
    "reference": or_null(text("invoice-1001", "Your own id of the grant.")),
    "metadata": any_object("As it was given."),
    "created_at": instant("When it was made."),
}
_FUNDING: Final = record(
    {
        "grant_id": or_null(public_id("grt", "Null: the user's credit.")),
        "amount": amount("Under 0: given back.", "21.571"),
        "debit_entry_id": or_null(public_id("ent", "The debit that it paid.")),
    }
)
_ENTRY: Final = record(
    {
        "id": public_id("ent"),
        "seq": whole("Counts the account's entries.", 2, least=1),
        "kind": one_of(EntryKind),
        "amount": amount("Signed.", "-21.571"),
        "balance_after": amount("The balance with it.", "78.429"),
        "session_id": or_null(public_id("ses")),
        "grant_id": or_null(public_id("grt")),
        "reverses": or_null(public_id("ent", "The entry that it corrects.")),
        "reason": or_null(text("goodwill after a dropped call")),
        "reference": or_null(text("invoice-1001")),
        "hash": {"type": "string", "pattern": "^[0-9a-f]{64}$", "examples": ["45df" * 16]},
        "created_at": instant("When it was posted."),
        "funding": listed(_FUNDING, "Which grants paid it."),
    }
)
_STATEMENT: Final = csv_of(
    CSV_HEADER,
    {
        "id": f"ent_{'0' * 52}",
        "seq": "2",
        "kind": EntryKind.CHARGE.value,
        "amount": "-21.571",
        "balance_after": "78.429",
        "session_id": f"ses_{'0' * 52}",
        "hash": "45df" * 16,
        "created_at": "2026-01-31T12:00:00.500000Z",
    },
)
_EXPIRING: Final = record({"amount": amount("What nothing holds of it."), "at": instant("When it expires.")})
_BALANCE: Final = record(
    {
        "user_id": text("ada", longest=128),
        "balance": amount("What is left of all grants, less debt.", "78.429"),
        "held": amount("What running sessions hold.", "0"),
        "available": amount("Balance and credit limit, less what is held.", "78.429"),
        "credit_limit": amount("How far the user may go into debt.", "0"),
        "accrued": or_null(amount("What running sessions have cost so far.", "0")),
        "talk_time_s": or_null(duration("How long a session could last.", 78)),
        "expiring_next": or_null(_EXPIRING),
        "as_of": instant("What the figures are of."),
    },
    description="At a past instant `accrued`, `talk_time_s` and `expiring_next` are null.",
)
_ALERTS: Final = record(
    {
        "low_credits": or_null(amount("Below this the balance is low.", "10")),
        "low_talk_time_s": or_null(duration("Below what affords this it is low.", 300)),
    }
)
_SPEND_LIMITS: Final = record({name: or_null(amount(f"A {name}.", "50")) for name in ("day", "month")})
_LISTED_USER: Final = record(
    {
        "user_id": text("ada", longest=128),
        "balance": amount("What is left of all grants, less debt.", "78.429"),
        "held": amount("What running sessions hold.", "0"),
        "available": amount("Balance and credit limit, less what is held.", "78.429"),
        "credit_limit": amount("How far the user may go into debt.", "0"),
        "suspended": flag("Whether starts are refused."),
        "alert_level": or_null(one_of(Level)),
        "created_at": instant("When the user was first seen."),
    }
)
_USER: Final = record(
    {
        "user_id": text("ada", longest=128),
        "credit_limit": amount("How far the user may go into debt.", "0"),
        "rate_card": or_null(text("evening", "The name or id of the user's own card.")),
        "default_time_limit_s": or_null(duration("Of starts that name none.", 600)),
        "max_concurrent_sessions": or_null(whole("How many at once.", 1, least=1)),
        "spend_limits": _SPEND_LIMITS,
        "suspended": flag("Whether starts are stopped."),
        "alerts": or_null(_ALERTS),
        "alert_level": or_null(one_of(Level)),
        "created_at": instant("When the user was first seen."),
    }
)
_SETTINGS: Final = record(
    {
        "starts_stopped": flag("Whether no session is started for anybody."),
        "starts_stopped_reason": or_null(text("maintenance")),
        "alerts": _ALERTS,
        "expiring_before_s": duration("So long before a grant expires it is announced.", 259200),
    }
)

_USER_ID: Final[dict[str, Any]] = {"user_id": USER_ID}

_RECURRING: Final = record(
    {
        "id": public_id("rec"),
        "user_id": text("ada", longest=128),
        "amount": amount("What each period gives.", "100"),
        "kind": one_of(GrantKind),
        "priority": whole("Lower is used first.", 50),
        "period": one_of(Period),
        "starts_at": instant("When the first period begins."),
        "ends_at": or_null(instant("No period begins then or later; null: no end is set.")),
        "count": or_null(whole("So many periods at most; null: any number.", 12, least=1)),
        "leftover": one_of(Leftover, "What becomes of what is left when the next period begins."),
        "rollover_cap": or_null(amount("So much rolls over at most; null: all of it.", "50")),
        "cost_basis": or_null(amount("Money a credit.", "0.1")),
        "metadata": any_object("Your own data, given to each grant."),
        "state": one_of(SeriesState),
        "given": whole("Periods that were given."),
        "skipped": whole("Periods that passed while it was paused."),
        "next_at": or_null(instant("When the next grant is effective; null: none comes.")),
        "created_at": instant("When it was made."),
    }
)
_RECURRING_ID: Final = {"recurring_id": public_id("rec", "The recurring grant's id.")}

ACCOUNTS: Final = Described(
    schemas={
        "Grant": record(_GRANT),
        "VoidedGrant": record({**_GRANT, "voided": amount("How much was taken back now.")}),
        "GrantPage": page_of("Grant"),
        "BulkGrants": record(
            {
                "dry_run": flag("Whether nothing was changed."),
                "totals": record(
                    {
                        "rows": whole("Rows of the file."),
                        "granted": whole("Grants that are new."),
                        "repeated": whole("Grants that were there, by the same reference."),
                        "refused": whole("Rows that came to nothing."),
                        "amount": amount("What the new grants come to.", "1250"),
                    }
                ),
                "rows": listed(
                    record(
                        {
                            "line": whole("Its line in the file.", 2, least=2),
                            "user_id": text("ada", longest=128),
                            "reference": text("invoice-1001", longest=128),
                            "amount": amount("What it asks for."),
                            "outcome": one_of(Outcome),
                            "grant_id": or_null(public_id("grt", "Null: refused, or none was made for good.")),
                            "detail": or_null(text("reference-conflict: …", "Why it was refused.")),
                        }
                    )
                ),
            }
        ),
        "RecurringGrant": _RECURRING,
        "RecurringGrantPage": page_of("RecurringGrant"),
        "Entry": _ENTRY,
        "EntryPage": page_of("Entry"),
        "Balance": _BALANCE,
        "User": _USER,
        "ListedUser": _LISTED_USER,
        "UserPage": page_of("ListedUser"),
        "Settings": _SETTINGS,
    },
    operations={
        "GET /v1/users/{user_id}/balance": Operation(
            description="What the user has, holds and can still spend; with `at`, what was booked by then.",
            answers={200: replies("The balance.", ref("Balance"))},
            problems=(NOT_FOUND,),
            parameters={**_USER_ID, "at": instant("Any instant of the past.")},
        ),
        "GET /v1/users/{user_id}/entries": Operation(
            description="The statement, newest first. As CSV all of it comes, without pages.",
            answers={200: replies("A page of entries.", ref("EntryPage"), csv=_STATEMENT)},
            problems=(NOT_FOUND,),
            parameters={
                **_USER_ID,
                **PAGED,
                "kind": one_of(EntryKind, "Entries of this kind."),
                "session_id": public_id("ses", "Entries of this session."),
                "grant_id": public_id("grt", "Entries that opened, expired or voided this grant."),
                "after": instant("Posted then or later."),
                "before": instant("Posted earlier than that."),
            },
        ),
        "GET /v1/users/{user_id}/grants": Operation(
            description="The user's grants, newest first.",
            answers={200: replies("A page of grants.", ref("GrantPage"))},
            problems=(NOT_FOUND,),
            parameters={**_USER_ID, **PAGED},
        ),
        "POST /v1/users/{user_id}/grants": Operation(
            description="Grants credits. A `reference` makes the grant unique for the user.",
            answers={
                200: replies("The grant that was made with this reference before.", ref("Grant")),
                201: replies("The grant.", ref("Grant")),
            },
            problems=(REFERENCE_CONFLICT,),
            parameters=_USER_ID,
            idempotent=True,
        ),
        "POST /v1/grants/bulk": Operation(
            description="Grants what a CSV file says, row by row, each once by its reference: sent again, it goes on. "
            "With `dry_run` nothing is changed.",
            answers={200: replies("What came of each row, or would.", ref("BulkGrants"))},
            parameters={"dry_run": flag("Whether to tell only what would come of it.")},
        ),
        "POST /v1/grants/{grant_id}/void": Operation(
            description="Takes back what is left of a grant, and closes it.",
            answers={200: replies("The grant.", ref("VoidedGrant"))},
            problems=(NOT_FOUND, GRANT_SPENT, GRANT_CLOSED),
            parameters={"grant_id": public_id("grt", "The grant's id.")},
            idempotent=True,
        ),
        "POST /v1/users/{user_id}/adjustments": Operation(
            description="Gives or takes credits by hand.",
            answers={201: replies("The entry.", ref("Entry"))},
            problems=(BELOW_FLOOR,),
            parameters=_USER_ID,
            idempotent=True,
        ),
        "GET /v1/users/{user_id}/recurring-grants": Operation(
            description="The user's recurring grants, newest first.",
            answers={200: replies("A page of recurring grants.", ref("RecurringGrantPage"))},
            problems=(NOT_FOUND,),
            parameters={**_USER_ID, **PAGED},
        ),
        "POST /v1/users/{user_id}/recurring-grants": Operation(
            description="Grants credits when each period begins.",
            answers={201: replies("The recurring grant.", ref("RecurringGrant"))},
            problems=(TOO_MANY_RECURRING_GRANTS,),
            parameters=_USER_ID,
            idempotent=True,
            example={"amount": "100", "period": "month"},
        ),
        "GET /v1/recurring-grants/{recurring_id}": Operation(
            description="A recurring grant, and when it comes next.",
            answers={200: replies("The recurring grant.", ref("RecurringGrant"))},
            problems=(NOT_FOUND,),
            parameters=_RECURRING_ID,
        ),
        **{
            f"POST /v1/recurring-grants/{{recurring_id}}/{verb}": Operation(
                description=told,
                answers={200: replies("The recurring grant.", ref("RecurringGrant"))},
                problems=(NOT_FOUND, RECURRING_GRANT_OVER),
                parameters=_RECURRING_ID,
                idempotent=True,
            )
            for verb, told in {
                "pause": "Periods that begin while it is paused give nothing.",
                "resume": "Goes on with the next period that begins.",
                "cancel": "Nothing more is given; what was given stays.",
            }.items()
        },
        "GET /v1/users": Operation(
            description="Users whose id begins so, whatever its case, in the order that is asked for.",
            answers={200: replies("A page of users.", ref("UserPage"))},
            parameters={
                **PAGED,
                "q": text("ada", "How the user's id begins.", longest=128),
                "min_available": amount("The least that a user can still spend; may be under 0.", "0"),
                "max_available": amount("The most that a user can still spend; may be under 0.", "10"),
                "sort": one_of(UserSort, "The order; with a minus the last ones first."),
            },
        ),
        "GET /v1/users/{user_id}": Operation(
            description="The user's settings.",
            answers={200: replies("The user.", ref("User"))},
            problems=(NOT_FOUND,),
            parameters=_USER_ID,
        ),
        "PATCH /v1/users/{user_id}": Operation(
            description="Changes what is given; null takes a setting away.",
            answers={200: replies("The user.", ref("User"))},
            parameters=_USER_ID,
            idempotent=True,
            example={"credit_limit": "10", "max_concurrent_sessions": 1},
        ),
        "GET /v1/settings": Operation(
            description="What is set for all users.",
            answers={200: replies("The settings.", ref("Settings"))},
        ),
        "PATCH /v1/settings": Operation(
            description="Changes what is given.",
            answers={200: replies("The settings.", ref("Settings"))},
            idempotent=True,
            example={"starts_stopped": True, "reason": "maintenance"},
        ),
    },
)
