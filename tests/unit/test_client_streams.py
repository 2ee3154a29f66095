"""Answers that are read while they come: the same lines and events, wherever the pieces are cut."""

from talktime.streams import EventJoiner, LineJoiner, ServerSentEvent


def cuts(body: bytes) -> list[list[bytes]]:
    """The same bytes in one piece, in pieces of each small size, and in two at each place."""
    sized = [[body[at : at + size] for at in range(0, len(body), size)] for size in (1, 2, 3, 7)]
    return [[body], *sized, *([body[:at], body[at:]] for at in range(1, len(body)))]


def test_lines_keep_their_ends_however_they_come() -> None:
    body = 'id,reason\r\n1,"ü\u2028\x85 two\nlines"\r\n\r\nlast'.encode()
    for pieces in cuts(body):
        joined = LineJoiner()
        lines = [line for piece in pieces for line in joined.more(piece)] + list(joined.rest())
        assert lines == ["id,reason\r\n", '1,"ü\u2028\x85 two\n', 'lines"\r\n', "\r\n", "last"]


STREAM = (
    b"retry: 2310\n\n"
    b'event: state\nid: 12-ab\ndata: {"balance": "1.10", "n": 1.50}\n\n'
    b":\n\n"
    b"data: two\ndata:lines\n\n"
    b"event: nothing\n\n"
    b"id: 13\r\nevent: state\r\ndata: []\r\n\r\n"
    b'event: end\ndata: {"reason": "stopping"}\n\n'
    b"event: cut\ndata: {"
)


def test_events_are_told_apart_however_they_come() -> None:
    for pieces in cuts(STREAM):
        joined = EventJoiner()
        events = [event for piece in pieces for event in joined.more(piece)]
        assert [(event.name, event.id) for event in events] == [
            ("state", "12-ab"),
            ("message", "12-ab"),
            ("state", "13"),
            ("end", "13"),
        ]
        assert str(events[0].data["n"]) == "1.50"
        assert events[1] == ServerSentEvent(name="message", data="two\nlines", id="12-ab")
        assert events[2].data == []
