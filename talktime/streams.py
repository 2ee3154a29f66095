"""Answers that are read while they come: texts line by line, and server-sent events (WHATWG HTML, 9.2)."""

import codecs
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from talktime.values import Misfit, parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """``name``: ``message`` unless the service gives it one. ``data``: the JSON document in it, else its text.

    ``id``: of the last event that had one: with it as ``last_event_id`` another stream goes on from here.
    """

    name: str
    data: Any
    id: str | None


class LineJoiner:
    """Pieces of UTF-8 into lines that keep their ends (``\\n``)."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""

    def more(self, piece: bytes) -> Iterator[str]:
        text = self._begun + self._decoder.decode(piece)
        *whole, self._begun = text.split("\n")
        for line in whole:
            yield line + "\n"

    def rest(self) -> Iterator[str]:
        """What came last, and has no end."""
        text = self._begun + self._decoder.decode(b"", final=True)
        if text:
            yield text


class EventJoiner:
    """Pieces of a stream into its events. What is not ended by an empty line is none yet."""

    def __init__(self) -> None:
        self._lines = LineJoiner()
        self._name = ""
        self._data: list[str] = []
        self._id: str | None = None

    def more(self, piece: bytes) -> Iterator[ServerSentEvent]:
        for line in self._lines.more(piece):
            if line := line.rstrip("\r\n"):
                self._take(line)
                continue
            if self._data:
                yield ServerSentEvent(name=self._name or "message", data=_read("\n".join(self._data)), id=self._id)
            self._name, self._data = "", []

    def _take(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._id = value


def _read(data: str) -> Any:
    try:
        return parsed(data.encode("utf-8"))
    except Misfit:
        return data


class Lines:
    """An answer of text as it comes, line by line, each with its line end: what ``csv.reader`` takes.

    Raises :class:`~talktime.errors.ConnectionFailed` if it is cut off.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        joined = LineJoiner()
        for piece in self._pieces:
            yield from joined.more(piece)
        yield from joined.rest()


class Events:
    """Server-sent events as they come, until the service ends the stream.

    Raises :class:`~talktime.errors.ConnectionFailed` if it is cut off, :class:`~talktime.errors.TimedOut` if nothing
    comes for the time that an attempt may be silent, not even the comments that keep a stream open.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[ServerSentEvent]:
        joined = EventJoiner()
        for piece in self._pieces:
            yield from joined.more(piece)


class AsyncLines:
    """As :class:`Lines`, with ``async for``."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[str]:
        joined = LineJoiner()
        async for piece in self._pieces:
            for line in joined.more(piece):
                yield line
        for line in joined.rest():
            yield line


class AsyncEvents:
    """As :class:`Events`, with ``async for``."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[ServerSentEvent]:
        joined = EventJoiner()
        async for piece in self._pieces:
            for event in joined.more(piece):
                yield event
