"""The other side of the heartbeat benchmark: the least that the same server can do."""

from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, answer 204."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})
