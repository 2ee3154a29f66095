"""What becomes of a delivery after an attempt; secrets and signatures."""

import datetime
from uuid import UUID

import pytest
from standardwebhooks import Webhook

from app.core.delivery import (
    LONGEST_RETRY_AFTER,
    LONGEST_WAIT,
    MAX_ATTEMPTS,
    WAITS,
    DeadLetter,
    Delivered,
    EndpointGone,
    TryAgain,
    jitter_bound,
    judge_attempt,
)
from app.core.retry_after import read_retry_after
from app.core.units import US_PER_DAY, US_PER_S, Instant, Micros, parse_instant
from app.deliveries.secrets import (
    MOST_SECRETS,
    EndpointSecret,
    is_sealed_by_an_old_key,
    new_secret,
    open_secrets,
    rotated,
    seal_secrets,
    signed_headers,
    valid,
)
from app.keys import KeyRing, Purpose
from app.ports.randomness import SeededRandomness

NOW = parse_instant("2026-03-01T12:00:00Z")
ENDPOINT = UUID(int=7)


def judged(status: int | None, attempts: int = 1, retry_after: int | None = None, jitter: int = 0) -> object:
    wait = None if retry_after is None else Micros(retry_after)
    return judge_attempt(status=status, attempts=attempts, retry_after=wait, jitter=Micros(jitter))


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_success(status: int) -> None:
    assert judged(status) == Delivered()
    assert judged(status, MAX_ATTEMPTS) == Delivered()


@pytest.mark.parametrize("status", [None, 100, 199, 300, 301, 307, 400, 404, 409, 411, 429, 500, 503, 599])
def test_everything_else_is_tried_again_until_it_was_tried_often_enough(status: int | None) -> None:
    assert judged(status) == TryAgain(WAITS[0])
    assert judged(status, MAX_ATTEMPTS - 1) == TryAgain(WAITS[-1])
    assert judged(status, MAX_ATTEMPTS) == DeadLetter()


def test_410_ends_it_for_the_endpoint() -> None:
    assert judged(410) == judged(410, MAX_ATTEMPTS) == EndpointGone()


def test_attempts_go_on_for_over_three_days_with_growing_waits() -> None:
    assert list(WAITS) == sorted(WAITS)
    assert 3 * US_PER_DAY < sum(WAITS) < 4 * US_PER_DAY


@pytest.mark.parametrize("attempts", range(1, MAX_ATTEMPTS + 1))
def test_jitter_lengthens_a_wait_by_a_fifth_at_most(attempts: int) -> None:
    wait = WAITS[min(attempts, len(WAITS)) - 1]
    assert wait // 5 <= jitter_bound(attempts) <= wait // 5 + 1
    assert wait + jitter_bound(attempts) - 1 <= LONGEST_WAIT


def test_an_endpoint_may_lengthen_a_wait_and_not_shorten_it() -> None:
    assert judged(503, 1, 60 * US_PER_S) == TryAgain(Micros(60 * US_PER_S))
    assert judged(503, 2, 60 * US_PER_S, 5) == TryAgain(Micros(WAITS[1] + 5))
    assert judged(429, 1, 90 * US_PER_DAY) == TryAgain(LONGEST_RETRY_AFTER)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        ("0", 0),
        ("Sun, 01 Mar 2026 12:02:00 GMT", 120),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("99999999999999999999", 86_400),
        ("-1", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("١٢", None),
        ("1" * 65, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(text: str | None, seconds: int | None) -> None:
    assert read_retry_after(text, NOW, LONGEST_RETRY_AFTER) == (None if seconds is None else seconds * US_PER_S)


# Secrets


def ring(*secrets: str) -> KeyRing:
    return KeyRing(secrets, Purpose.ENDPOINT)


def test_secrets_open_with_the_key_that_sealed_them_and_for_their_endpoint() -> None:
    randomness = SeededRandomness(1)
    secrets = [new_secret(randomness), EndpointSecret(b"old", Instant(5))]
    sealed = seal_secrets(ring("first"), ENDPOINT, secrets, randomness)
    assert open_secrets(ring("first"), ENDPOINT, sealed) == secrets
    assert open_secrets(ring("second", "first"), ENDPOINT, sealed) == secrets
    assert is_sealed_by_an_old_key(ring("second", "first"), sealed)
    assert not is_sealed_by_an_old_key(ring("first", "second"), sealed)
    assert open_secrets(ring("second"), ENDPOINT, sealed) is None
    assert open_secrets(ring("first"), UUID(int=8), sealed) is None
    assert open_secrets(ring("first"), ENDPOINT, sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert secrets[0].key not in sealed
    assert secrets[0].text not in repr(secrets)


def test_a_rotation_ends_those_before_and_keeps_few() -> None:
    randomness = SeededRandomness(2)
    first, second, third = (new_secret(randomness) for _ in range(3))
    once = rotated([first], second, NOW, Instant(NOW + 10))
    assert [secret.until for secret in once] == [None, NOW + 10]
    assert valid(once, Instant(NOW + 9)) == once
    assert valid(once, Instant(NOW + 10)) == [second]
    twice = rotated(once, third, NOW, Instant(NOW + 20))
    assert [(secret.key, secret.until) for secret in twice] == [
        (third.key, None),
        (second.key, NOW + 20),
        (first.key, NOW + 10),
    ]
    assert [secret.key for secret in rotated(once, third, NOW, NOW)] == [third.key]
    many = [first]
    for _ in range(9):
        many = rotated(many, new_secret(randomness), NOW, Instant(NOW + 10))
    assert len(many) == MOST_SECRETS


def test_signatures_are_those_of_the_reference() -> None:
    secrets = [new_secret(SeededRandomness(seed)) for seed in (3, 4)]
    body = '{"type":"grant.created","data":{"user_id":"ädä"}}'
    headers = signed_headers(secrets, "evt_1", NOW, body.encode())
    at = datetime.datetime.fromtimestamp(NOW // US_PER_S, datetime.UTC)
    assert headers["webhook-signature"].split(" ") == [
        Webhook(secret.text).sign("evt_1", at, body) for secret in secrets
    ]
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("evt_1", str(NOW // US_PER_S))
