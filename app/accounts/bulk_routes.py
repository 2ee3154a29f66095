"""``/v1/grants/bulk``."""

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.accounts.bulk import COLUMNS, bulk_document, grant_all, read_grants
from app.core.access import Scope
from app.db.database import Database
from app.errors import invalid
from app.http.access import actor_of, allowed
from app.http.answers import json_response
from app.http.bodies import CSV_BODY, read_bounded
from app.http.schemas import CSV, csv_of
from app.ledger.book import LedgerPorts
from app.ports.clock import Clock

MOST_ROWS: Final = 1_000
"""Of one request, which waits for all of them; the command takes more."""

_EXAMPLE: Final = {"user_id": "ada", "amount": "12.5", "reference": "invoice-1001", "kind": "paid"}


def bulk_routes(database: Database, ledger: LedgerPorts, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["users"])
    body = {"required": True, "content": {CSV: {"schema": csv_of(COLUMNS, _EXAMPLE)}}}

    @router.post("/grants/bulk", summary="Grant credits to many users", openapi_extra={"requestBody": body})
    @allowed(Scope.CREDITS_WRITE, "grant.create")
    async def bulk(request: Request, dry_run: str | None = None) -> Response:
        if dry_run not in {None, "true", "false"}:
            raise invalid("/dry_run", "must be true or false")
        rows = read_grants(await read_bounded(request, types=CSV_BODY), MOST_ROWS)
        trying = dry_run == "true"
        done = await grant_all(database, ledger, clock, rows, actor_of(request), dry_run=trying)
        return json_response(bulk_document(done, dry_run=trying))

    return router
