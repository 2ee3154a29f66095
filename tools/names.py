"""What the generated client calls things where the API document does not say it: one line for an operation."""

from collections.abc import Mapping
from typing import Final

METHODS: Final = {
    "POST /v1/sessions": "start_session",
    "POST /api/start_session": "start_as_in_the_guide",
    "GET /v1/sessions": "sessions",
    "GET /v1/sessions/{session_id}": "session",
    "GET /v1/sessions/{session_id}/charge": "charge",
    "GET /v1/sessions/{session_id}/heartbeats": "heartbeats",
    "GET /v1/sessions/{session_id}/snapshots": "snapshots",
    "GET /v1/sessions/{session_id}/pulls": "pulls",
    "GET /v1/sessions/{session_id}/bodies/{sha256}": "pull_body",
    "POST /v1/sessions/{session_id}/reconcile": "reconcile",
    "POST /v1/sessions/{session_id}/end": "end_session",
    "POST /v1/sessions/{session_id}/refund": "refund",
    "POST /v1/sessions/{session_id}/rerate": "rerate",
    "POST /v1/sessions/{session_id}/review": "review",
    "GET /v1/users/{user_id}/balance": "balance",
    "GET /v1/users/{user_id}/live": "live",
    "GET /v1/users/{user_id}/entries": "entries",
    "GET /v1/users/{user_id}/grants": "grants",
    "POST /v1/users/{user_id}/grants": "grant",
    "POST /v1/grants/{grant_id}/void": "void_grant",
    "POST /v1/grants/bulk": "grant_in_bulk",
    "GET /v1/users/{user_id}/recurring-grants": "recurring_grants",
    "POST /v1/users/{user_id}/recurring-grants": "create_recurring_grant",
    "GET /v1/recurring-grants/{recurring_id}": "recurring_grant",
    "POST /v1/recurring-grants/{recurring_id}/pause": "pause_recurring_grant",
    "POST /v1/recurring-grants/{recurring_id}/resume": "resume_recurring_grant",
    "POST /v1/recurring-grants/{recurring_id}/cancel": "cancel_recurring_grant",
    "GET /v1/payments": "payments",
    "GET /v1/payments/{payment_id}": "payment",
    "POST /v1/payments/{payment_id}/resolve": "resolve_payment",
    "POST /v1/users/{user_id}/adjustments": "adjust",
    "GET /v1/users": "users",
    "GET /v1/users/{user_id}": "user",
    "PATCH /v1/users/{user_id}": "change_user",
    "GET /v1/settings": "settings",
    "PATCH /v1/settings": "change_settings",
    "GET /v1/finance/roll-forward": "roll_forward",
    "GET /v1/rate-cards": "rate_cards",
    "POST /v1/rate-cards": "publish_rate_card",
    "GET /v1/rate-cards/templates": "rate_card_templates",
    "GET /v1/rate-cards/{card_id}": "rate_card",
    "POST /v1/charges/preview": "preview",
    "POST /v1/rate-cards/simulations": "simulate",
    "GET /v1/rate-cards/simulations": "simulations",
    "GET /v1/rate-cards/simulations/{simulation_id}": "simulation",
    "GET /v1/webhook-endpoints": "webhook_endpoints",
    "POST /v1/webhook-endpoints": "create_webhook_endpoint",
    "GET /v1/webhook-endpoints/{endpoint_id}": "webhook_endpoint",
    "PATCH /v1/webhook-endpoints/{endpoint_id}": "change_webhook_endpoint",
    "DELETE /v1/webhook-endpoints/{endpoint_id}": "delete_webhook_endpoint",
    "POST /v1/webhook-endpoints/{endpoint_id}/rotate-secret": "rotate_webhook_secret",
    "POST /v1/webhook-endpoints/{endpoint_id}/test": "test_webhook_endpoint",
    "POST /v1/webhook-endpoints/{endpoint_id}/replay": "replay_events",
    "POST /v1/webhook-endpoints/{endpoint_id}/retry": "retry_dead_letters",
    "POST /v1/events/{event_id}/redeliver": "redeliver_event",
    "GET /v1/events": "events",
    "GET /v1/events/{event_id}": "event",
    "GET /v1/events/{event_id}/deliveries": "event_deliveries",
    "GET /v1/webhook-endpoints/{endpoint_id}/deliveries": "endpoint_deliveries",
    "GET /v1/webhook-endpoints/{endpoint_id}/deliveries/{event_id}": "delivery",
    "GET /v1/dead-letters": "dead_letters",
    "GET /v1/api-keys": "api_keys",
    "POST /v1/api-keys": "create_api_key",
    "DELETE /v1/api-keys/{key_id}": "revoke_api_key",
    "POST /v1/users/{user_id}/tokens": "create_user_token",
    "POST /v1/users/{user_id}/portal-links": "create_portal_link",
    "GET /v1/audit-log": "audit_log",
}
"""The method of each operation. One that is missing here stops the generator."""

SECRETS: Final = frozenset({"connection_details.token", "secret", "token", "webhook", "PortalLink.url"})
"""Members of answers, or of one kind of answer, that a ``repr`` leaves out."""

RECORDS: Final = {
    "Alerts": "Alerts",
    "Attempts": "DeliveryAttempt",
    "Distribution": "DistributionBucket",
    "Funding": "FundingLine",
    "LargestFall": "SessionChange",
    "LargestRise": "SessionChange",
    "Pages": "PulledPage",
    "Rows": "BulkRow",
    "Steps": "SessionStep",
    "Totals": "BulkTotals",
    "Users": "UserCounts",
    "UsersPayingLess": "UserChange",
    "UsersPayingMore": "UserChange",
    "WrittenOff": "SessionSum",
}
"""Records that stand within others are called by the member in which they stand, but for these."""

PARTS: Final = {"Silence": "SilenceTerms", "Snapshots": "Snapshot"}
"""The same for parts of requests."""

CARD_TERMS: Final = "RateCardTerms"
CARD: Final = "POST /v1/rate-cards"
NOT_OF_A_CARD: Final = frozenset({"effective_at", "match"})
CARDS: Final = {
    ("POST /v1/charges/preview", "rate_card"),
    ("POST /v1/rate-cards/simulations", "rate_card"),
    ("POST /v1/rate-cards/simulations", "provider_cost"),
}
"""Members of bodies that are a card or the id or name of one, which the document leaves open."""

ENUMS: Final[Mapping[tuple[str, ...], str]] = {
    ("session.started", "session.live"): "EventType",
    ("starting", "unconfirmed"): "SessionState",
    ("grant", "charge"): "EntryKind",
}
"""Sets of values with a name of their own, by their first two values."""
