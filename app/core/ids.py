"""Public ids: what they are of, which account they belong to, which row they name.

An id of a thing that belongs to an account is its kind, then the account's id and its own as 52 letters and digits, so
that a bare id leads to its account (and to the machine that holds it) without a look-up. Other things have 26.
"""

import hashlib
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}
_UUID_BYTES: Final = 16
_ACCOUNT_DOMAIN: Final = b"talktime/account/v1\x00"
_PAYMENT_DOMAIN: Final = b"talktime/payment/v1\x00"


class Kind(StrEnum):
    """The kinds of public ids, by prefix."""

    SESSION = "ses"
    GRANT = "grt"
    ENTRY = "ent"
    RATE_CARD = "rc"
    EVENT = "evt"
    API_KEY = "key"
    AUDIT = "aud"
    SIMULATION = "sim"
    ENDPOINT = "ep"
    PAYMENT = "pay"
    RECURRING_GRANT = "rec"


class AccountThing(NamedTuple):
    """Where a thing lives: its account, and its own id within it."""

    account_id: UUID
    id: UUID


NIL_ACCOUNT: Final = UUID(int=0)
"""The account of things that belong to none."""


def account_id_of(user_id: str) -> UUID:
    """The account of a user: the first 128 bits of a hash, so that each user has one without any look-up."""
    digest = hashlib.sha256(_ACCOUNT_DOMAIN + user_id.encode("utf-8")).digest()
    return UUID(bytes=digest[:_UUID_BYTES])


def payment_id_of(reference: str) -> UUID:
    """The id of a payment: the first 128 bits of a hash of what it is called where it was made."""
    digest = hashlib.sha256(_PAYMENT_DOMAIN + reference.encode("utf-8")).digest()
    return UUID(bytes=digest[:_UUID_BYTES])


def public_id(kind: Kind, account_id: UUID, thing_id: UUID) -> str:
    """The public id of a thing that belongs to an account."""
    return f"{kind}_{base32(account_id.bytes + thing_id.bytes)}"


def reference_id(kind: Kind, thing_id: UUID) -> str:
    """The public id of a thing that belongs to no account."""
    return f"{kind}_{base32(thing_id.bytes)}"


def parse_public_id(kind: Kind, text: str) -> AccountThing | None:
    """Where the thing with this public id lives; null if it is no id of this kind."""
    raw = _decode(kind, text, 2 * _UUID_BYTES)
    return None if raw is None else AccountThing(UUID(bytes=raw[:_UUID_BYTES]), UUID(bytes=raw[_UUID_BYTES:]))


def parse_reference_id(kind: Kind, text: str) -> UUID | None:
    """The id of a thing that belongs to no account; null if ``text`` is no id of this kind."""
    raw = _decode(kind, text, _UUID_BYTES)
    return None if raw is None else UUID(bytes=raw)


def base32(raw: bytes) -> str:
    """``raw`` in letters and digits, 5 bits each, of which none is taken for another."""
    length = -(-len(raw) * 8 // 5)
    value = int.from_bytes(raw)
    return "".join(_ALPHABET[value >> 5 * place & 31] for place in reversed(range(length)))


def _decode(kind: Kind, text: str, size: int) -> bytes | None:
    prefix, _, body = text.partition("_")
    if prefix != kind or len(body) != -(-size * 8 // 5):
        return None
    value = 0
    for character in body:
        digit = _VALUES.get(character)
        if digit is None:
            return None
        value = value << 5 | digit
    return value.to_bytes(size) if value < 1 << 8 * size else None
