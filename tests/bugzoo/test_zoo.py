"""Every planted bug fits the source of today, and the document says of each what finds it."""

import pytest

from tests.bugzoo.bug import Bug, Layer
from tests.bugzoo.patching import DoesNotApply, patched, source_of
from tests.bugzoo.table import read_survey, table, written
from tests.bugzoo.zoo import BUGS, NoSuchBug, bug_named

NAMED = {
    "silence tail billed": "silence-tail-billed",
    "split transaction": "split-transaction",
    "random operation key": "random-operation-key",
    "missing state re-check": "no-second-look-after-the-lock",
    "hold released twice": "hold-released-twice",
    "float rounding": "float-rounding",
    "gap off by one": "gap-off-by-one",
    "wrong burn order": "burn-order-endless-first",
    "idempotency claimed before the effect": "key-claimed-before-the-effect",
    "lease without fencing": "lease-without-fencing",
    "arrival time taken after commit": "arrival-at-the-write",
    "debt repaid twice": "debt-repaid-twice",
    "expired grant revived by a refund": "expired-grant-revived",
}
"""The defects that any set must hold, and what they are called here."""


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_it_applies_and_compiles(bug: Bug) -> None:
    assert bug.patches
    for module in bug.modules:
        source = source_of(module)
        changed = patched(bug, module, source)
        assert changed != source
        compile(changed, module, "exec", dont_inherit=True)


@pytest.mark.parametrize("source", ["nothing of it", "        if proof_start - end > gap:\n" * 2])
def test_a_bug_that_does_not_fit_says_so(source: str) -> None:
    with pytest.raises(DoesNotApply, match="the bug gap-off-by-one must be updated"):
        patched(bug_named("gap-off-by-one"), "app.core.liveness", source)


def test_there_are_enough_and_those_that_must_be_there() -> None:
    names = [bug.name for bug in BUGS]
    assert len(names) == len(set(names)) >= 20
    assert set(NAMED.values()) <= set(names)
    with pytest.raises(NoSuchBug):
        bug_named("none")


def test_each_says_what_it_does() -> None:
    for bug in BUGS:
        assert bug.does[0].islower(), bug.name
        assert not bug.does.endswith("."), bug.name


def test_layers_with_a_seed_have_it_recorded() -> None:
    for bug in BUGS:
        run = bug.found_by
        assert (run.seed is not None) == (run.layer in {Layer.REFERENCE, Layer.STATEFUL, Layer.SIM}), bug.name
        assert (run.amount is not None) == (run.layer in {Layer.REFERENCE, Layer.STATEFUL}), bug.name


def test_the_document_says_what_finds_what() -> None:
    assert read_survey().keys() <= {bug.name for bug in BUGS}
    assert written() == table(), "python -m tests.bugzoo --table writes it"
