"""Errors that reach a client: one class, a stable code each (RFC 9457 ``application/problem+json``).

``Problem`` is raised where a request cannot be done as asked. Each code has one status and says whether the same
request may succeed later (``retryable``). Nothing else that is raised is meant for a client's eyes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one place of a request.

    ``pointer`` is a JSON pointer (RFC 6901) into the body, empty for the whole of it; or, behind a slash, the name of a
    parameter or header, ``path`` or ``query``.
    """

    pointer: str
    detail: str


@dataclass(frozen=True, slots=True)
class Code:
    """A kind of problem."""

    name: str
    status: int
    title: str
    retryable: bool = False


INVALID_REQUEST: Final = Code("invalid-request", 422, "The request is not valid")
INVALID_JSON: Final = Code("invalid-json", 422, "The body is not valid JSON")
INVALID_SIGNATURE: Final = Code("invalid-signature", 400, "The signature is not valid")
WRONG_MODE: Final = Code("wrong-mode", 409, "The event is of live mode, and this service is for test mode")
PAYMENT_NOT_OPEN: Final = Code("payment-not-open", 409, "Nothing has to be decided of the payment")
NOTHING_PAID: Final = Code("nothing-paid", 409, "It is not known that this was paid")
UNAUTHORIZED: Final = Code("unauthorized", 401, "A valid key is required")
FORBIDDEN: Final = Code("forbidden", 403, "The key does not allow this")
NOT_FOUND: Final = Code("not-found", 404, "There is nothing here")
METHOD_NOT_ALLOWED: Final = Code("method-not-allowed", 405, "This method is not allowed here")
MALFORMED_REQUEST: Final = Code("malformed-request", 400, "This is no HTTP request")
REQUEST_TIMEOUT: Final = Code("request-timeout", 408, "The request took too long to arrive", retryable=True)
ADDRESS_TOO_LONG: Final = Code("address-too-long", 414, "The address is too long")
UNSUPPORTED_MEDIA_TYPE: Final = Code("unsupported-media-type", 415, "The body is of a type that is not taken here")
RATE_LIMITED: Final = Code("rate-limited", 429, "Too many requests", retryable=True)
HEADERS_TOO_LARGE: Final = Code("headers-too-large", 431, "The headers are too many or too large")
BODY_TOO_LARGE: Final = Code("body-too-large", 413, "The body is too large")
INSUFFICIENT_CREDITS: Final = Code("insufficient-credits", 402, "The user's credits do not cover a session")
USER_SUSPENDED: Final = Code("user-suspended", 409, "The user is suspended")
TOO_MANY_SESSIONS: Final = Code("too-many-sessions", 409, "The user has too many sessions at once")
SESSION_MISMATCH: Final = Code("session-mismatch", 409, "The heartbeat belongs to another session")
SPEND_LIMIT_REACHED: Final = Code("spend-limit-reached", 409, "The user's limit on spending is reached")
STARTS_STOPPED: Final = Code("starts-stopped", 503, "No sessions are started at the moment", retryable=True)
GRANT_SPENT: Final = Code("grant-spent", 409, "Nothing remains of the grant")
GRANT_CLOSED: Final = Code("grant-closed", 409, "The grant has expired or was voided")
BELOW_FLOOR: Final = Code("below-floor", 409, "The account would go below its floor")
SESSION_NOT_SETTLED: Final = Code("session-not-settled", 409, "The session is not settled")
SESSION_WRITTEN_OFF: Final = Code("session-written-off", 409, "The session was written off")
SESSION_NOT_IN_REVIEW: Final = Code("session-not-in-review", 409, "The session is not waiting for a decision")
REFUND_EXCEEDS_CHARGE: Final = Code("refund-exceeds-charge", 409, "More than is left of the session's charge")
RERATE_WINDOW_CLOSED: Final = Code("rerate-window-closed", 409, "The session was settled too long ago")
ALREADY_RATED: Final = Code("already-rated", 409, "The session was rated on this evidence and card before")
TOO_MANY_SIMULATIONS: Final = Code("too-many-simulations", 409, "Too many simulations are waiting", retryable=True)
TOO_MANY_RECURRING_GRANTS: Final = Code("too-many-recurring-grants", 409, "The user has too many recurring grants")
RECURRING_GRANT_OVER: Final = Code("recurring-grant-over", 409, "The recurring grant is over")
TOO_MANY_ENDPOINTS: Final = Code("too-many-endpoints", 409, "There are too many endpoints")
ENDPOINT_DISABLED: Final = Code("endpoint-disabled", 409, "The endpoint is disabled")
TOO_MANY_STREAMS: Final = Code("too-many-streams", 429, "The user has too many streams open", retryable=True)
NO_STREAM_FREE: Final = Code("no-stream-free", 503, "This process has no stream to spare", retryable=True)
REFERENCE_CONFLICT: Final = Code("reference-conflict", 409, "The reference was used for another grant")
ADMIN_EXISTS: Final = Code("admin-exists", 409, "There is an admin with this name")
CHANGED_MEANWHILE: Final = Code("changed-meanwhile", 409, "It is not as it was when it was shown")
IDEMPOTENCY_CONFLICT: Final = Code("idempotency-conflict", 422, "The idempotency key was used for another request")
IDEMPOTENCY_IN_FLIGHT: Final = Code(
    "idempotency-in-flight", 409, "A request with this idempotency key is under way", retryable=True
)
IDEMPOTENCY_EXPIRED: Final = Code("idempotency-key-expired", 409, "The answer of this idempotency key is gone")
PROVIDER_REFUSED: Final = Code("provider-refused", 502, "The provider refused to start the session")
PERSONA_NOT_ACCEPTED: Final = Code("persona-not-accepted", 422, "The provider does not take this persona or scenario")
PROVIDER_UNCONFIRMED: Final = Code("provider-unconfirmed", 504, "It is not known whether the session started")
PROVIDER_UNAVAILABLE: Final = Code("provider-unavailable", 502, "The provider's timeline could not be had", True)
PROVIDER_BUSY: Final = Code("provider-busy", 503, "The provider takes no request at the moment", retryable=True)
CAPABILITY_MISSING: Final = Code("capability-missing", 409, "The provider cannot do this")
SESSION_NOT_LIVE: Final = Code("session-not-live", 409, "The session does not run")
END_REFUSED: Final = Code("end-refused", 502, "The provider did not end the session")
END_UNCONFIRMED: Final = Code("end-unconfirmed", 504, "It is not known whether the session was ended", retryable=True)
BUSY: Final = Code("busy", 503, "The service is busy", retryable=True)
UNAVAILABLE: Final = Code("unavailable", 503, "The service cannot work at the moment", retryable=True)
INTERNAL: Final = Code("internal-error", 500, "Something broke here")


class Problem(Exception):
    """A request that cannot be done as asked.

    ``detail`` explains this occurrence to a person; ``errors`` say where the request is wrong, which every 422 does and
    nothing else; ``extra`` holds further members of the problem document; ``headers`` go with the answer. Raises
    ``TypeError`` for a 422 without ``errors``.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        extra: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if bool(errors) != (code.status == INVALID_REQUEST.status):
            raise TypeError(f"{code.name}: a 422 says where the request is wrong, and nothing else does")
        super().__init__(f"{code.name}: {detail}")
        self.kind = code
        self.detail = detail
        self.errors = tuple(errors)
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        return self.kind.status

    @property
    def code(self) -> str:
        return self.kind.name


def invalid(pointer: str, detail: str) -> Problem:
    """A 422 about one place of the body."""
    return Problem(INVALID_REQUEST, f"{pointer or 'the body'}: {detail}", errors=[FieldError(pointer, detail)])
