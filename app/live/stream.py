"""An answer that does not end: a user's state, and each one after it."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.core.units import US_PER_S
from app.http.accept import EVENT_STREAM, VARY
from app.http.wire import ABORT
from app.live.frames import first_frame
from app.live.hub import Hub, Listener
from app.ports.clock import Clock

log = structlog.get_logger(__name__)

STREAM_HEADERS: Final[Mapping[str, str]] = {
    **VARY,
    "Cache-Control": "no-store",
    # nginx would keep events until a buffer is full.
    "X-Accel-Buffering": "no",
}


class EventStream(Response):
    """Tells ``listener`` what there is to tell until either side ends it, and gives its place back."""

    media_type = EVENT_STREAM

    def __init__(self, hub: Hub, listener: Listener, clock: Clock, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(None, 200, {**STREAM_HEADERS, **(headers or {})})
        # It has none, and the framework says that it is 0.
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"content-length"]
        self._hub = hub
        self._listener = listener
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        listener = self._listener
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first_frame(self._hub.retry_ms()), "more_body": True})
            async with asyncio.timeout(None) as leave:
                listener.open(send, leave, scope.get("state", {}).get(ABORT))
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            pass  # it was ended from our side
        except OSError:
            log.debug("live.gone")
        finally:
            self._hub.leave(listener)
            open_for = (self._clock.now() - listener.since) // US_PER_S
            why = "deaf" if listener.deaf else listener.end or "left"
            log.info("live.ended", why=str(why), seconds=open_for, events=listener.events)
