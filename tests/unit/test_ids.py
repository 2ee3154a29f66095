"""Public ids lead to their account and row; nothing else passes for one."""

from uuid import UUID

import pytest

from app.core.ids import (
    NIL_ACCOUNT,
    AccountThing,
    Kind,
    account_id_of,
    parse_public_id,
    parse_reference_id,
    public_id,
    reference_id,
)

ACCOUNT = UUID("00112233-4455-6677-8899-aabbccddeeff")
THING = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
ZERO, FULL = UUID(int=0), UUID(int=2**128 - 1)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("account", [ZERO, ACCOUNT, FULL])
@pytest.mark.parametrize("thing", [ZERO, THING, FULL])
def test_a_public_id_leads_back_to_its_account_and_row(kind: Kind, account: UUID, thing: UUID) -> None:
    text = public_id(kind, account, thing)
    assert parse_public_id(kind, text) == AccountThing(account, thing)
    assert len(text) == len(kind) + 1 + 52


@pytest.mark.parametrize("thing", [ZERO, THING, FULL])
def test_a_reference_id_leads_back_to_its_row(thing: UUID) -> None:
    text = reference_id(Kind.RATE_CARD, thing)
    assert parse_reference_id(Kind.RATE_CARD, text) == thing
    assert len(text) == 2 + 1 + 26


def test_the_form_of_ids_never_changes() -> None:
    assert public_id(Kind.SESSION, ACCOUNT, THING) == "ses_000h48sm8nb6ey49kanvskeyxzr1h455vb4pex5vsknk084sn02q"
    assert reference_id(Kind.RATE_CARD, THING) == "rc_01h455vb4pex5vsknk084sn02q"


def test_ids_made_later_sort_later() -> None:
    texts = [public_id(Kind.ENTRY, ACCOUNT, UUID(int=n)) for n in (0, 1, 31, 32, 2**64, 2**128 - 1)]
    assert texts == sorted(texts)


def test_ids_use_no_letter_that_is_taken_for_another() -> None:
    used = {character for n in range(64) for character in public_id(Kind.GRANT, ACCOUNT, UUID(int=n << 60))[4:]}
    assert used <= set("0123456789abcdefghjkmnpqrstvwxyz")
    assert not used & set("ilou")


VALID = public_id(Kind.SESSION, ACCOUNT, THING)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ses",
        "ses_",
        VALID[:-1],
        VALID + "0",
        VALID + "\n",
        " " + VALID,
        VALID.upper(),
        VALID.replace("ses_", "SES_"),
        VALID.replace("_", "-"),
        VALID.replace("ses_", "ses__"),
        VALID.replace("ses_", "grt_"),
        VALID.replace("ses_", ""),
        VALID[:-1] + "l",
        VALID[:-1] + "é",
        VALID[:-1] + "\ud800",
        VALID[:-1] + "\u0000",
        VALID[:-1] + "١",
        "ses_" + "z" * 52,  # 260 bits do not fit in 256
        "ses_2" + "0" * 51,
        str(THING),
        reference_id(Kind.SESSION, THING),
    ],
)
def test_no_other_text_is_a_sessions_id(text: str) -> None:
    assert parse_public_id(Kind.SESSION, text) is None


@pytest.mark.parametrize(
    "text", ["", "rc_", "rc_" + "z" * 26, "rc_8" + "0" * 25, public_id(Kind.RATE_CARD, ACCOUNT, THING)]
)
def test_no_other_text_is_a_rate_cards_id(text: str) -> None:
    assert parse_reference_id(Kind.RATE_CARD, text) is None


def test_the_largest_ids_fit() -> None:
    assert public_id(Kind.SESSION, FULL, FULL) == "ses_1" + "z" * 51
    assert reference_id(Kind.RATE_CARD, FULL) == "rc_7" + "z" * 25


@pytest.mark.parametrize(
    ("user_id", "account"),
    [
        ("alice", "8a6857b2-5dfd-840c-4a31-35d4027090fd"),
        ("Alice", "2f30bb65-ed19-987e-56fd-34979ffc5b53"),
        ("a/b", "8b80125a-3dfb-a056-3625-0398d2827950"),
        ("\u00e9", "7bbc2cf5-c814-92f9-27f9-e568fb2f7749"),
        ("e\u0301", "f1cf3ede-ae52-bfc3-8042-a700c48b0891"),
    ],
)
def test_a_users_account_is_the_same_for_ever_and_differs_by_the_byte(user_id: str, account: str) -> None:
    assert str(account_id_of(user_id)) == account


def test_no_user_has_the_account_of_things_without_one() -> None:
    assert account_id_of("") != NIL_ACCOUNT
