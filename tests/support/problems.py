"""What every problem document has to be."""

from typing import Any

import httpx


def problem(response: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem document in an answer, which must have this status and, if given, this code."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["type"].startswith("/problems/")
    assert ("errors" in document) == (status == 422)
    assert all(error["detail"] for error in document.get("errors", []))
    if code is not None:
        assert document["type"].rpartition("/")[2] == code
    return document


def pointers(response: httpx.Response) -> list[str]:
    """Where the errors of a 422 point to; each says what is wrong."""
    return [error["pointer"] for error in problem(response, 422)["errors"]]
