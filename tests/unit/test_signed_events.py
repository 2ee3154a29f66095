"""Stripe's signatures: what its own library signs is believed, and what ours makes its library believes."""

import hmac
import json

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st
from stripe import WebhookSignature

from app.core.signed_events import TOLERANCE, Unsigned, check_signature, signature
from app.core.units import US_PER_S, Instant

SECRET = "whsec_test_secret"
BODY = b'{"id": "evt_test_webhook", "object": "event", "livemode": true}'
SECONDS = 1_700_000_000
NOW = Instant(SECONDS * US_PER_S)


def header(*, at: int = SECONDS, body: bytes = BODY, secret: str = SECRET, scheme: str = "v1") -> str:
    """As the tests of Stripe's library make theirs."""
    return f"t={at},{scheme}={hmac.digest(secret.encode(), f'{at}.{body.decode()}'.encode(), 'sha256').hex()}"


def test_what_stripes_library_signs_is_believed() -> None:
    made = WebhookSignature.generate_signature_header(BODY.decode(), SECRET, SECONDS)
    assert made == header()
    assert check_signature(made, BODY, [SECRET], NOW) is None


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3))
def test_whatever_is_in_it_is_signed_alike(document: dict[str, str]) -> None:
    body = json.dumps({"object": "event", "id": "evt_1", "data": document}, ensure_ascii=False).encode()
    made = WebhookSignature.generate_signature_header(body.decode(), SECRET, SECONDS)
    assert check_signature(made, body, [SECRET], NOW) is None
    ours = f"t={SECONDS},v1={signature(str(SECONDS), body, SECRET)}"
    assert WebhookSignature.verify_header(body.decode(), ours, SECRET) is True


def test_stripes_library_refuses_what_we_sign_with_another_secret() -> None:
    ours = f"t={SECONDS},v1={signature(str(SECONDS), BODY, 'whsec_other')}"
    with pytest.raises(stripe.SignatureVerificationError):
        WebhookSignature.verify_header(BODY.decode(), ours, SECRET)


GOOD = header()
OTHER = header(secret="whsec_other")
REFUSED = {
    "no header": ("", Unsigned.MALFORMED),
    "no time": (GOOD.partition(",")[2], Unsigned.MALFORMED),
    "no signature": (f"t={SECONDS}", Unsigned.MALFORMED),
    "an empty signature": (f"t={SECONDS},v1=", Unsigned.MALFORMED),
    "a time that is no number": (GOOD.replace(str(SECONDS), "now"), Unsigned.MALFORMED),
    "a negative time": (GOOD.replace("t=", "t=-"), Unsigned.MALFORMED),
    "a time in other digits": (GOOD.replace(str(SECONDS), "١٧٠٠"), Unsigned.MALFORMED),
    "two times": (f"t=1,{GOOD}", Unsigned.MALFORMED),
    "a huge time": (GOOD.replace(str(SECONDS), "9" * 40), Unsigned.MALFORMED),
    "a huge header": (GOOD + ",v1=" + "0" * 5000, Unsigned.MALFORMED),
    "an unknown scheme": (header(scheme="v0"), Unsigned.MALFORMED),
    "another scheme before the wrong one": (f"{header(scheme='v0')},v1={'0' * 64}", Unsigned.MISMATCH),
    "another secret": (OTHER, Unsigned.MISMATCH),
    "another time": (GOOD.replace(str(SECONDS), str(SECONDS + 1)), Unsigned.MISMATCH),
    "upper case": ("t=" + GOOD[2:].partition(",")[0] + ",v1=" + GOOD.rpartition("=")[2].upper(), Unsigned.MISMATCH),
    "a part of it": (GOOD[:-1], Unsigned.MALFORMED),
    "what is not ASCII": (GOOD[:-1] + "é", Unsigned.MALFORMED),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_signed_is_refused(name: str) -> None:
    given_header, why = REFUSED[name]
    assert check_signature(given_header, BODY, [SECRET], NOW) is why


def test_another_body_is_refused() -> None:
    for body in (BODY + b" ", BODY[:-1], b"", BODY.replace(b"true", b"True")):
        assert check_signature(GOOD, body, [SECRET], NOW) is Unsigned.MISMATCH


def test_one_that_fits_is_enough_whichever_it_is() -> None:
    both = f"{OTHER},{GOOD.partition(',')[2]}"
    for given_header in (both, f"{GOOD},{OTHER.partition(',')[2]}", f"{GOOD},v0=1", GOOD.replace(",", ", ")):
        assert check_signature(given_header, BODY, [SECRET], NOW) is None
        assert check_signature(given_header, BODY, ["whsec_new", SECRET], NOW) is None
    assert check_signature(GOOD, BODY, [], NOW) is Unsigned.MISMATCH


def test_it_is_believed_for_five_minutes_before_and_after() -> None:
    for late in (-TOLERANCE, 0, TOLERANCE):
        assert check_signature(GOOD, BODY, [SECRET], Instant(NOW + late)) is None
    for late in (-TOLERANCE - 1, TOLERANCE + 1):
        assert check_signature(GOOD, BODY, [SECRET], Instant(NOW + late)) is Unsigned.STALE
    assert check_signature(OTHER, BODY, [SECRET], Instant(NOW + TOLERANCE + 1)) is Unsigned.MISMATCH


def test_a_body_that_is_no_text_is_signed_by_its_bytes() -> None:
    body = b"\xff\xfe{"
    made = f"t={SECONDS},v1={signature(str(SECONDS), body, SECRET)}"
    assert check_signature(made, body, [SECRET], NOW) is None
