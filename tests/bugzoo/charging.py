"""Bugs in what a charge comes to, and in what is held for it."""

from typing import Final

from tests.bugzoo.bug import Bug, Layer, Patch, Run

_DOCUMENTS: Final = Run(Layer.REFERENCE, seed=1, amount=1_000)

BUGS: Final = (
    Bug(
        name="silence-tail-billed",
        does="the silence after the last proof of life is billed",
        patches=(
            Patch(
                "app.core.buckets",
                """\
        if offset >= policy.envelopes[-1].end:
            return Reason.AFTER_LAST_PROOF
        if not _covered(offset, policy.envelopes):
""",
                """\
        if offset < policy.envelopes[-1].end and not _covered(offset, policy.envelopes):
""",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="gap-off-by-one",
        does="two proofs of life exactly G apart no longer belong together",
        patches=(
            Patch(
                "app.core.liveness",
                "        if proof_start - end > gap:\n",
                "        if proof_start - end >= gap:\n",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="float-durations",
        does="the seconds of the timeline are added up as floats",
        patches=(
            Patch("app.core.timeline", "    picoseconds = 0\n", "    elapsed_s = 0.0\n"),
            Patch("app.core.timeline", "        picoseconds += length\n", "        elapsed_s += length / 10**12\n"),
            Patch(
                "app.core.timeline",
                "        end = Micros(picoseconds // _PICOSECONDS_PER_US)\n",
                "        end = Micros(int(elapsed_s * 10**6))\n",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="float-rounding",
        does="billed time is priced in minutes that are floats, and the rounding turns on what they lost",
        patches=(
            Patch(
                "app.core.rating",
                "    exact = Fine(sum(piece.length * prices.of(piece) for piece in kept if piece.reason is None))\n",
                """\
    billable = [piece for piece in kept if piece.reason is None]
    exact = Fine(int(sum(piece.length / US_PER_MINUTE * prices.of(piece) for piece in billable) * US_PER_MINUTE))
""",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="rounding-per-segment",
        does="each segment is cut to the microsecond, not the sum of them",
        patches=(
            Patch(
                "app.core.timeline",
                """\
        picoseconds += length
        end = Micros(picoseconds // _PICOSECONDS_PER_US)
""",
                """\
        picoseconds += length // _PICOSECONDS_PER_US
        end = Micros(picoseconds)
""",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="first-pull-ignored",
        does="the timeline is aligned with the clock by its last pull alone",
        patches=(
            Patch(
                "app.core.alignment",
                "    bound = min(pull.received_at - pull.end for pull in pulls)\n",
                "    bound = pulls[latest(pulls)].received_at - pulls[latest(pulls)].end\n",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="ceiling-not-applied",
        does="a charge may exceed what was held when the session started",
        patches=(
            Patch(
                "app.core.charge",
                "    amount = rating.amount if evidence.authorized is None"
                " else min(rating.amount, evidence.authorized)\n",
                "    amount = rating.amount\n",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="interim-bills-open-silence",
        does="the silence that is still growing is part of what is shown as accrued",
        patches=(
            Patch(
                "app.core.charge",
                "        open_from=timeline.trailing_silence_start if evidence.interim else None,\n",
                "",
            ),
        ),
        found_by=_DOCUMENTS,
    ),
    Bug(
        name="hold-without-increments",
        does="the worst case leaves out that time is rounded up to increments, so too little is held",
        patches=(
            Patch(
                "app.core.worst_case",
                "        counted = round_up(priced, card)\n",
                "        counted = max(priced, card.initial)\n",
            ),
        ),
        found_by=Run(Layer.PROPERTY, only=("test_worst_case_properties.py",)),
    ),
    Bug(
        name="card-read-anew",
        does="a session is settled by the version of its rate card in force when it was over",
        patches=(
            Patch(
                "app.settlement.evidence",
                """\
    stored = await card_by_id(transaction, session.rate_card_id if other is None else other)
""",
                """\
    stored = await card_by_id(transaction, session.rate_card_id if other is None else other)
    if stored is not None and other is None:
        stored = await find_card(transaction, stored.card.name, session.over_at or session.requested_at)
""",
            ),
            Patch(
                "app.settlement.evidence",
                "from app.pricing.cards import card_by_id\n",
                "from app.pricing.cards import card_by_id, find_card\n",
            ),
        ),
        found_by=Run(Layer.INTEGRATION, only=("test_starts.py::test_a_session_keeps_the_version_it_started_with",)),
    ),
)
