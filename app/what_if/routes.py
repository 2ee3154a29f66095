"""``/v1/rate-cards/simulations``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT
from app.db.database import Database, Transaction
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import takes
from app.http.idempotency import read_keyed, write_once
from app.http.pages import Cursor, Limit, page_limit
from app.ports.clock import Clock
from app.ports.ids import Ids
from app.what_if.asked import SimulationDocument
from app.what_if.simulations import load_simulation, simulations_page, take_request


def what_if_routes(database: Database, ids: Ids, clock: Clock) -> APIRouter:
    router = APIRouter(prefix="/v1/rate-cards/simulations", tags=["pricing"])

    @router.post(
        "",
        summary="Price a period's settled sessions by another rate card",
        status_code=202,
        openapi_extra=takes(SimulationDocument),
    )
    @allowed(Scope.PRICING_WRITE, "rate_card.simulate")
    async def post_simulation(request: Request) -> Response:
        document, key = await read_keyed(request, SimulationDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(202, await take_request(transaction, ids, document, now, actor_of(request)))

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    @router.get("", summary="All simulations, newest first")
    @allowed(Scope.PRICING_WRITE)
    async def list_simulations(limit: Limit = None, cursor: Cursor = None) -> Response:
        async with database.reading() as transaction:
            return json_response(await simulations_page(transaction, page_limit(limit), cursor))

    @router.get("/{simulation_id}", summary="A simulation: how far it is, and its result")
    @allowed(Scope.PRICING_WRITE)
    async def get_simulation(simulation_id: str) -> Response:
        async with database.reading() as transaction:
            return json_response(await load_simulation(transaction, simulation_id))

    return router
