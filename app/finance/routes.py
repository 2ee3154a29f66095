"""``/v1/finance/…``: the roll-forward."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Scope
from app.db.database import Database
from app.finance.documents import CSV_HEADER, csv_name, csv_rows, roll_forward_document
from app.finance.roll_forward import STATEMENT_TIMEOUT_MS, checked_period, roll_forward
from app.http.accept import VARY, wants_csv
from app.http.access import allowed
from app.http.answers import Answer
from app.http.bodies import instant_parameter
from app.http.csv_answers import csv_headers, csv_lines
from app.ports.clock import Clock


def finance_routes(database: Database, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1/finance", tags=["finance"])

    @router.get("/roll-forward", summary="How a period's credits came and went, by kind of grant")
    @allowed(Scope.READ)
    async def period_roll_forward(request: Request, after: str | None = None, before: str | None = None) -> Response:
        now = clock.now()
        period = checked_period(instant_parameter("after", after), instant_parameter("before", before), now)
        async with database.reading(statement_timeout_ms=STATEMENT_TIMEOUT_MS) as transaction:
            rows = await roll_forward(transaction, period)
        document = roll_forward_document(rows, period, now)
        if wants_csv(request):
            body = csv_lines([CSV_HEADER, *csv_rows(document)])
            return Response(body, headers=csv_headers(csv_name(document)), media_type="text/csv; charset=utf-8")
        return Answer(200, document, VARY).response()

    return router
