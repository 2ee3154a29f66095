"""``Talktime`` and ``AsyncTalktime``: every call of the API as a method, the same in both.

Arguments that stand in the address come first, all others by their names, which are those of the API. Credits are
:class:`~decimal.Decimal`, ``int`` or a decimal text, never ``float``, and come back as :class:`~decimal.Decimal`;
durations are seconds as :class:`~decimal.Decimal` or ``int``; instants are :class:`~datetime.datetime` with a time
zone.
"""

from collections.abc import Callable

import httpx

from talktime.async_calls import AsyncCalls
from talktime.retries import Retry, RetryPolicy
from talktime.streams import AsyncEvents, AsyncLines, Events, Lines, ServerSentEvent
from talktime.sync_calls import SyncCalls
from talktime.transport import (
    TIMEOUT_S,
    AsyncListing,
    Listing,
    Page,
    http_options,
    settings_of,
)
from talktime.values import UNSET, Credits, Seconds, Unset

__all__ = [
    "UNSET",
    "AsyncEvents",
    "AsyncLines",
    "AsyncListing",
    "AsyncTalktime",
    "Credits",
    "Events",
    "Lines",
    "Listing",
    "Page",
    "Retry",
    "RetryPolicy",
    "Seconds",
    "ServerSentEvent",
    "Talktime",
    "Unset",
]


class Talktime(SyncCalls):
    """A client for code that waits. One is enough for a process: any number of threads may use it at once.

    ``base_url``: where Talktime is, with the path before ``/v1`` if there is one. ``api_key``: a key or a user token;
    it is shown by nothing here, and sent to no other address. ``timeout_s``: seconds that one attempt may be silent.
    ``retries``: how often and how long a call is tried. ``on_retry``: told of each failure after which it is tried
    again. ``allow_http``: also to other machines without TLS, as within a private network. ``most_connections``: at
    once. ``transport``: another one of httpx's, as for a proxy or certificates of your own.

    Raises ``ValueError`` for a URL, a key or figures that cannot work.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: RetryPolicy | None = None,
        on_retry: Callable[[Retry], None] | None = None,
        allow_http: bool = False,
        most_connections: int = 100,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        settings = settings_of(base_url, timeout_s=timeout_s, retries=retries, on_retry=on_retry, allow_http=allow_http)
        http = httpx.Client(**http_options(api_key, settings, most_connections), transport=transport)
        super().__init__(settings, http, owns_http=True)


class AsyncTalktime(AsyncCalls):
    """The same client for asyncio; each instance belongs to one event loop."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: RetryPolicy | None = None,
        on_retry: Callable[[Retry], None] | None = None,
        allow_http: bool = False,
        most_connections: int = 100,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        settings = settings_of(base_url, timeout_s=timeout_s, retries=retries, on_retry=on_retry, allow_http=allow_http)
        http = httpx.AsyncClient(**http_options(api_key, settings, most_connections), transport=transport)
        super().__init__(settings, http, owns_http=True)
