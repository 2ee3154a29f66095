"""The chain of entries: a MAC that never changes its form, and that covers every field."""

import hashlib
import hmac
from dataclasses import fields, replace
from typing import Any
from uuid import UUID

import pytest

from app.core.chain import Entry, Funding, Posting, mac
from app.core.units import Instant, MicroCredits
from app.ledger.keys import LedgerKeys

KEY = b"golden-key"
ENTRY = Entry(
    account_id=UUID(int=1),
    id=UUID(int=2),
    seq=3,
    natural_key="settle:x",
    kind="charge",
    amount=MicroCredits(-20),
    balance_after=MicroCredits(80),
    session_id=UUID(int=4),
    grant_id=None,
    reverses=None,
    reason="é \u2028 \U0001f600",
    reference=None,
    created_at=Instant(1_772_366_400_000_000),
    postings=(Posting("grants.paid", MicroCredits(-20)), Posting("consumed", MicroCredits(20))),
    funding=(Funding(UUID(int=2), UUID(int=5), MicroCredits(15)), Funding(UUID(int=2), None, MicroCredits(5))),
    terms=None,
    charge_digest=b"\x01\x02",
    key_id="k1",
)


def test_the_first_mac_is_what_it_always_was() -> None:
    assert mac(ENTRY, None, KEY).hex() == "947eeaa24e0e4bc52880ea63bc0843a3d77a56b7e974c480a3264c48840b78f3"


def test_the_next_mac_is_what_it_always_was() -> None:
    assert mac(ENTRY, bytes(32), KEY).hex() == "d2a2aa1a37638c3d5ce24ed0493e76d4302d1e546f74eacd42511b488500b9dc"


def test_the_mac_is_that_of_the_canonical_text() -> None:
    text = (
        '{"account":"00000000000000000000000000000001","amount":-20,"balance_after":80,"charge":"0102",'
        '"created_at":1772366400000000,"funding":[["00000000000000000000000000000002",'
        '"00000000000000000000000000000005",15],["00000000000000000000000000000002",null,5]],"grant":null,'
        '"id":"00000000000000000000000000000002","key_id":"k1","kind":"charge","natural_key":"settle:x",'
        '"postings":[["grants.paid",-20],["consumed",20]],"previous":null,'
        '"reason":"\\u00e9 \\u2028 \\ud83d\\ude00","reference":null,"reverses":null,"seq":3,'
        '"session":"00000000000000000000000000000004","terms":null}'
    )
    assert mac(ENTRY, None, KEY) == hmac.new(KEY, text.encode(), hashlib.sha256).digest()


CHANGES: list[tuple[str, Any]] = [
    ("account_id", UUID(int=9)),
    ("id", UUID(int=9)),
    ("seq", 4),
    ("natural_key", "settle:y"),
    ("kind", "adjustment"),
    ("amount", -21),
    ("balance_after", 81),
    ("session_id", None),
    ("session_id", UUID(int=9)),
    ("grant_id", UUID(int=9)),
    ("reverses", UUID(int=9)),
    ("reason", None),
    ("reason", "e\u0301 \u2028 \U0001f600"),
    ("reference", ""),
    ("created_at", ENTRY.created_at + 1),
    ("postings", ()),
    ("postings", ENTRY.postings[::-1]),
    ("postings", (Posting("grants.paid", MicroCredits(-19)), Posting("consumed", MicroCredits(20)))),
    ("postings", (Posting("grants.promotional", MicroCredits(-20)), Posting("consumed", MicroCredits(20)))),
    ("funding", ENTRY.funding[:1]),
    ("funding", ENTRY.funding[::-1]),
    ("funding", (replace(ENTRY.funding[0], amount=MicroCredits(16)), ENTRY.funding[1])),
    ("funding", (replace(ENTRY.funding[0], grant_id=None), ENTRY.funding[1])),
    ("funding", (replace(ENTRY.funding[0], debit_entry_id=UUID(int=9)), ENTRY.funding[1])),
    ("terms", {}),
    ("terms", {"amount": 1}),
    ("charge_digest", None),
    ("charge_digest", b"\x01\x03"),
    ("key_id", "k2"),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_every_field_changes_the_mac(field: str, value: Any) -> None:
    assert mac(replace(ENTRY, **{field: value}), None, KEY) != mac(ENTRY, None, KEY)


def test_the_table_above_holds_every_field() -> None:
    assert {name for name, _ in CHANGES} == {field.name for field in fields(Entry)}


def test_key_and_place_in_the_chain_change_the_mac() -> None:
    macs = [mac(ENTRY, None, KEY), mac(ENTRY, b"", KEY), mac(ENTRY, b"\x00", KEY), mac(ENTRY, None, b"other")]
    assert len(set(macs)) == len(macs)


def test_the_order_of_entries_matters() -> None:
    other = replace(ENTRY, id=UUID(int=9))
    one_way = mac(other, mac(ENTRY, None, KEY), KEY)
    other_way = mac(ENTRY, mac(other, None, KEY), KEY)
    assert one_way != other_way


def test_the_order_of_terms_does_not_matter() -> None:
    one, other = replace(ENTRY, terms={"a": 1, "b": None}), replace(ENTRY, terms={"b": None, "a": 1})
    assert mac(one, None, KEY) == mac(other, None, KEY)


def test_keys_are_found_by_an_id_that_tells_nothing_of_them() -> None:
    keys = LedgerKeys([b"new-key", b"old-key"])
    assert keys.current == b"new-key"
    assert keys.key(keys.current_id) == b"new-key"
    assert keys.key(LedgerKeys([b"old-key"]).current_id) == b"old-key"
    assert keys.key("00000000") is None
    assert keys.current_id == "c6b1f3e9"


def test_without_a_key_there_is_no_ledger() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        LedgerKeys([])
