"""What the calls for finance answer."""

from typing import Final

from app.finance.documents import CSV_HEADER
from app.http.schemas import Described, Operation, amount, csv_of, instant, listed, or_null, record, ref, replies, text

_ROW: Final = record(
    {
        "kind": text("paid", "A kind of grant, `credit` or `total`."),
        **{
            name: amount("Money." if name.endswith("_value") else "Credits.", "0", decimals=12)
            for name in CSV_HEADER
            if name != "kind"
        },
    }
)

_CSV: Final = csv_of(CSV_HEADER, {name: "paid" if name == "kind" else "0" for name in CSV_HEADER})

FINANCE: Final = Described(
    schemas={
        "RollForward": record(
            {
                "after": or_null(instant("Where the period begins; null: with the first entry.")),
                "before": or_null(instant("Where it ends; null: with what is booked.")),
                "as_of": instant("When it was worked out."),
                "rows": listed(ref("RollForwardRow")),
            }
        ),
        "RollForwardRow": _ROW,
    },
    operations={
        "GET /v1/finance/roll-forward": Operation(
            description="How a period's credits came and went, by kind of grant. Reads the whole ledger.",
            answers={200: replies("The roll-forward.", ref("RollForward"), csv=_CSV)},
            parameters={"after": instant("From then on."), "before": instant("Up to then, exclusive.")},
        ),
    },
)
