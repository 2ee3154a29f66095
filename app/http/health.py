"""``/healthz`` and ``/readyz``: whether the process runs, and whether it can be given work."""

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from app.http.access import open_to_all
from app.http.schemas import JSON, Described, Operation, Reply, listed, one_of, record, ref, text


def add_health_routes(api: FastAPI, faults: Callable[[], Awaitable[list[str]]]) -> None:
    """``faults``: why the process must not be given work now."""

    @api.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
    @open_to_all
    async def healthz() -> Response:
        return JSONResponse({"status": "ok"})

    @api.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
    @open_to_all
    async def readyz() -> Response:
        found = await faults()
        return JSONResponse({"status": "unready" if found else "ready", "faults": found}, 503 if found else 200)


HEALTH: Final = Described(
    schemas={
        "Health": record({"status": one_of(("ok",))}),
        "Readiness": record(
            {"status": one_of(("ready", "unready")), "faults": listed(text("the database cannot be reached"))}
        ),
    },
    operations={
        "GET /healthz": Operation(
            summary="Whether the process runs",
            tags=("service",),
            description="Touches nothing else.",
            answers={200: Reply(description="It runs.", content={JSON: ref("Health")})},
            open=True,
        ),
        "GET /readyz": Operation(
            summary="Whether the process can be given work",
            tags=("service",),
            description="Looks at the database, its settings and the clock.",
            answers={
                200: Reply(description="It can.", content={JSON: ref("Readiness")}),
                503: Reply(description="It cannot, and why.", content={JSON: ref("Readiness")}),
            },
            open=True,
        ),
    },
)
