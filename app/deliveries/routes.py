"""``/v1/webhook-endpoints``, ``/v1/events`` and ``/v1/dead-letters``."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.core.access import Scope
from app.core.ids import NIL_ACCOUNT
from app.db.database import Database, Transaction
from app.deliveries.endpoints import (
    EndpointChangesDocument,
    EndpointPorts,
    NewEndpointDocument,
    RotationDocument,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    endpoint_document,
    endpoint_id_of,
    endpoints_page,
    load_endpoint,
    rotate_secret,
)
from app.deliveries.events import (
    Asked,
    event_answer,
    event_key,
    events_answer,
    events_page,
    known_type,
    load_event,
)
from app.deliveries.log import (
    AskedDeliveries,
    Backlog,
    DeliveryState,
    backlogs,
    deliveries_page,
    endpoint_parameter,
    known_state,
    load_delivery,
)
from app.deliveries.replay import (
    RedeliverDocument,
    ReplayDocument,
    redeliver,
    replay,
    retry_dead_letters,
    send_test,
)
from app.http.access import actor_of, allowed
from app.http.answers import Answer, json_response
from app.http.bodies import checked_user_id, instant_parameter, read_bounded, takes
from app.http.idempotency import idempotency_key, read_keyed, write_once
from app.http.pages import Cursor, Limit, page_limit
from app.http.sealing import Sealing
from app.ports.clock import Clock


def delivery_routes(*, database: Database, ports: EndpointPorts, clock: Clock, sealing: Sealing) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["events"])
    _add_endpoint_routes(router, database, ports, clock, sealing)
    _add_replay_routes(router, database, ports, clock)
    _add_event_routes(router, database)
    _add_delivery_routes(router, database)
    return router


def _add_endpoint_routes(
    router: APIRouter, database: Database, ports: EndpointPorts, clock: Clock, sealing: Sealing
) -> None:
    @router.get("/webhook-endpoints", summary="All endpoints, newest first")
    @allowed(Scope.ADMIN)
    async def list_endpoints(limit: Limit = None, cursor: Cursor = None) -> Response:
        async with database.reading() as transaction:
            return json_response(await endpoints_page(transaction, limit=page_limit(limit), cursor=cursor))

    @router.post(
        "/webhook-endpoints", summary="Make an endpoint", status_code=201, openapi_extra=takes(NewEndpointDocument)
    )
    @allowed(Scope.ADMIN, "webhook_endpoint.create")
    async def make_endpoint(request: Request) -> Response:
        asked, key = await read_keyed(request, NewEndpointDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            document, secret = await create_endpoint(transaction, ports, asked, now=now, actor=actor_of(request))
            return Answer(201, document, secrets={"secret": secret})

        return await write_once(database, NIL_ACCOUNT, key, now, work, sealing)

    @router.get("/webhook-endpoints/{endpoint_id}", summary="An endpoint, and what has not arrived there")
    @allowed(Scope.ADMIN)
    async def get_endpoint(endpoint_id: str) -> Response:
        found = endpoint_id_of(endpoint_id)
        async with database.reading() as transaction:
            endpoint = await load_endpoint(transaction, found)
            backlog = (await backlogs(transaction, clock.now(), found)).get(found, Backlog())
        return json_response({**endpoint_document(endpoint), "backlog": backlog.document()})

    @router.patch(
        "/webhook-endpoints/{endpoint_id}",
        summary="Change, disable or enable an endpoint",
        openapi_extra=takes(EndpointChangesDocument),
    )
    @allowed(Scope.ADMIN, "webhook_endpoint.change")
    async def patch_endpoint(endpoint_id: str, request: Request) -> Response:
        found = endpoint_id_of(endpoint_id)
        asked, key = await read_keyed(request, EndpointChangesDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(
                200, await change_endpoint(transaction, ports, found, asked, now=now, actor=actor_of(request))
            )

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    @router.delete("/webhook-endpoints/{endpoint_id}", summary="Delete an endpoint")
    @allowed(Scope.ADMIN, "webhook_endpoint.delete")
    async def remove_endpoint(endpoint_id: str, request: Request) -> Response:
        found = endpoint_id_of(endpoint_id)
        key = idempotency_key(request, await read_bounded(request))
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(200, await delete_endpoint(transaction, ports.ids, found, now=now, actor=actor_of(request)))

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    @router.post(
        "/webhook-endpoints/{endpoint_id}/rotate-secret",
        summary="Give an endpoint a new secret",
        openapi_extra=takes(RotationDocument),
    )
    @allowed(Scope.ADMIN, "webhook_endpoint.rotate")
    async def rotate_endpoint_secret(endpoint_id: str, request: Request) -> Response:
        found = endpoint_id_of(endpoint_id)
        asked, key = await read_keyed(request, RotationDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            document, secret = await rotate_secret(
                transaction, ports, found, asked.overlap_s, now=now, actor=actor_of(request)
            )
            return Answer(200, document, secrets={"secret": secret})

        return await write_once(database, NIL_ACCOUNT, key, now, work, sealing)


def _add_replay_routes(router: APIRouter, database: Database, ports: EndpointPorts, clock: Clock) -> None:
    @router.post("/webhook-endpoints/{endpoint_id}/test", summary="Send an endpoint an event to see it arrive")
    @allowed(Scope.ADMIN, "webhook_endpoint.test")
    async def test_endpoint(endpoint_id: str, request: Request) -> Response:
        found = endpoint_id_of(endpoint_id)
        key = idempotency_key(request, await read_bounded(request))
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(202, await send_test(transaction, ports, found, now=now, actor=actor_of(request)))

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    @router.post(
        "/webhook-endpoints/{endpoint_id}/replay",
        summary="Send events to an endpoint again",
        openapi_extra=takes(ReplayDocument),
    )
    @allowed(Scope.ADMIN, "webhook_endpoint.replay")
    async def replay_events(endpoint_id: str, request: Request) -> Response:
        found = endpoint_id_of(endpoint_id)
        asked, key = await read_keyed(request, ReplayDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(202, await replay(transaction, ports.ids, found, asked, now=now, actor=actor_of(request)))

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    @router.post("/webhook-endpoints/{endpoint_id}/retry", summary="Let the dead letters of an endpoint wait again")
    @allowed(Scope.ADMIN, "webhook_endpoint.retry")
    async def retry_endpoint(endpoint_id: str, request: Request) -> Response:
        found = endpoint_id_of(endpoint_id)
        key = idempotency_key(request, await read_bounded(request))
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(
                202, await retry_dead_letters(transaction, ports.ids, found, now=now, actor=actor_of(request))
            )

        return await write_once(database, NIL_ACCOUNT, key, now, work)

    @router.post("/events/{event_id}/redeliver", summary="Send an event again", openapi_extra=takes(RedeliverDocument))
    @allowed(Scope.ADMIN, "event.redeliver")
    async def redeliver_event(event_id: str, request: Request) -> Response:
        event = event_key(event_id)
        asked, key = await read_keyed(request, RedeliverDocument)
        now = clock.now()

        async def work(transaction: Transaction) -> Answer:
            return Answer(202, await redeliver(transaction, ports.ids, event, asked, now=now, actor=actor_of(request)))

        return await write_once(database, event.account_id, key, now, work)


def _add_event_routes(router: APIRouter, database: Database) -> None:
    read = _reader(database)

    @router.get("/events", summary="All events, newest first")
    @allowed(Scope.ADMIN)
    async def list_events(
        type: str | None = None,  # noqa: A002 - the parameter's name
        user_id: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> Response:
        asked = Asked(
            user_id=None if user_id is None else checked_user_id(user_id),
            kind=known_type(type),
            after=instant_parameter("after", after),
            before=instant_parameter("before", before),
        )
        rows = page_limit(limit)

        async def work(transaction: Transaction) -> Any:
            return events_answer(*await events_page(transaction, asked, limit=rows, cursor=cursor))

        return await read(work)

    @router.get("/events/{event_id}", summary="An event")
    @allowed(Scope.ADMIN)
    async def get_event(event_id: str) -> Response:
        key = event_key(event_id)

        async def work(transaction: Transaction) -> Any:
            return event_answer(await load_event(transaction, key))

        return await read(work)

    @router.get("/events/{event_id}/deliveries", summary="Where an event was dispatched to, and what came of it")
    @allowed(Scope.ADMIN)
    async def list_event_deliveries(event_id: str, limit: Limit = None, cursor: Cursor = None) -> Response:
        key, rows = event_key(event_id), page_limit(limit)

        async def work(transaction: Transaction) -> Any:
            await load_event(transaction, key)
            return await deliveries_page(transaction, AskedDeliveries(event=key), limit=rows, cursor=cursor)

        return await read(work)


def _add_delivery_routes(router: APIRouter, database: Database) -> None:
    read = _reader(database)

    @router.get("/webhook-endpoints/{endpoint_id}/deliveries", summary="The deliveries to an endpoint")
    @allowed(Scope.ADMIN)
    async def list_endpoint_deliveries(
        endpoint_id: str, state: str | None = None, limit: Limit = None, cursor: Cursor = None
    ) -> Response:
        found, rows = endpoint_id_of(endpoint_id), page_limit(limit)
        asked = AskedDeliveries(endpoint_id=found, state=known_state(state))

        async def work(transaction: Transaction) -> Any:
            await load_endpoint(transaction, found)
            return await deliveries_page(transaction, asked, limit=rows, cursor=cursor)

        return await read(work)

    @router.get("/webhook-endpoints/{endpoint_id}/deliveries/{event_id}", summary="A delivery with its attempts")
    @allowed(Scope.ADMIN)
    async def get_delivery(endpoint_id: str, event_id: str) -> Response:
        found, key = endpoint_id_of(endpoint_id), event_key(event_id)

        async def work(transaction: Transaction) -> Any:
            await load_endpoint(transaction, found)
            return await load_delivery(transaction, found, key)

        return await read(work)

    @router.get("/dead-letters", summary="Deliveries that were tried often enough")
    @allowed(Scope.ADMIN)
    async def list_dead_letters(endpoint_id: str | None = None, limit: Limit = None, cursor: Cursor = None) -> Response:
        asked = AskedDeliveries(endpoint_id=endpoint_parameter(endpoint_id), state=DeliveryState.DEAD)
        rows = page_limit(limit)

        async def work(transaction: Transaction) -> Any:
            return await deliveries_page(transaction, asked, limit=rows, cursor=cursor)

        return await read(work)


def _reader(database: Database) -> Callable[[Callable[[Transaction], Awaitable[Any]]], Awaitable[Response]]:
    async def read(work: Callable[[Transaction], Awaitable[Any]]) -> Response:
        async with database.reading() as transaction:
            return json_response(await work(transaction))

    return read
