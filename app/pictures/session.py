"""A session's picture: lanes on one time axis, from heartbeats to what was billed."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from app.core.buckets import Piece, Reason
from app.core.charge import Charge, Evidence
from app.core.outages import Outage
from app.core.timeline import Segment, SegmentType
from app.core.units import Instant, Micros, format_credits, format_instant
from app.pictures.axis import FOLD_PX, Axis, axis_of, clock, length, window_of
from app.pictures.lanes import Block, Stretch, blocks, places
from app.pictures.words import ANOMALIES, BILLED, REASONS, TYPES

WIDTH: Final = 960
NEAR_LIMIT: Final = 2
"""A time limit that lies further out than so many times what happened is told in words alone."""

_LEFT: Final = 120
_RIGHT: Final = 24
_TOP: Final = 92
_LANE: Final = 34
_BAR: Final = 22
_LEGEND_ROW: Final = 20
_LEGEND_COLUMNS: Final = 3
_CHAR_PX: Final = 7
"""No character of our labels is wider: words are written into a block only where they fit."""

_LIGHT: Final[Mapping[str, str]] = {
    "paper": "#ffffff", "ink": "#1c2430", "faint": "#5b6675", "line": "#c9d1da", "user": "#2460c4", "agent": "#7442b8",
    "silence": "#8391a1", "reduced": "#b3bdc8", "unknown": "#a86a00", "proven": "#22804a", "beat": "#22804a",
    "hatch": "#6b7684", "outage": "#c0392b", "limit": "#c0392b",
}  # fmt: skip
_DARK: Final[Mapping[str, str]] = {
    "paper": "#12171e", "ink": "#e8edf3", "faint": "#a3afbd", "line": "#36404c", "user": "#6ea3ff", "agent": "#b791f0",
    "silence": "#77869a", "reduced": "#4d5a69", "unknown": "#e0a030", "proven": "#4cc07f", "beat": "#4cc07f",
    "hatch": "#8e9bab", "outage": "#ff7b6b", "limit": "#ff7b6b",
}  # fmt: skip


STYLE: Final = "@media(prefers-color-scheme:dark){%s}" % "".join(  # noqa: UP031 - braces are the style sheet's
    f".f-{name}{{fill:{colour}}}.s-{name}{{stroke:{colour}}}" for name, colour in _DARK.items()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPicture:
    """What is drawn. ``final``: the charge is posted; else it is what has accrued. ``outages``: our own."""

    session_id: str
    state: str
    final: bool
    charge: Charge
    evidence: Evidence
    outages: Sequence[Outage] = ()
    window: tuple[Micros, Micros] | None = None
    """From where to where, offsets from the origin; null: all of it, with a tail that is folded where it is long."""


def draw(picture: SessionPicture, *, in_page: bool = False) -> str:
    """The picture as one SVG document that needs nothing else: no script, no font, no other file.

    Colours stand with each shape, for readers that know no style sheets; a style sheet turns them for dark screens.
    A timeline of any length stays below 150 KB.

    ``in_page``: as a part of a page, which has :data:`STYLE` among its own style sheets.
    """
    return _Drawing(picture, in_page=in_page).text()


def extent(picture: SessionPicture) -> tuple[Micros, Micros]:
    """How far the picture goes to scale, and how long all of it is; offsets from the origin."""
    axis = _Drawing(replace(picture, window=None), in_page=True).axis
    return axis.shown, axis.end


class _Drawing:
    def __init__(self, picture: SessionPicture, *, in_page: bool) -> None:
        self._picture = picture
        self._in_page = in_page
        self._charge = picture.charge
        self._evidence = picture.evidence
        self._origin = self._charge.origin.at
        self._axis = self._make_axis()
        self._hatch = f"hatch-{picture.session_id[-10:]}"
        self._parts: list[str] = []
        self._y = _TOP

    def text(self) -> str:
        self._head()
        top, behind = self._y, len(self._parts)
        self._heartbeats()
        self._lane("proven alive", self._proven())
        self._lane("timeline", [_said(segment) for segment in self._evidence.timeline.segments])
        self._lane("billed", [_billed(piece) for piece in self._charge.pieces if piece.reason is None])
        self._lane("not billed", [_not_billed(piece) for piece in self._charge.pieces if piece.reason is not None])
        outages = self._outages()
        if outages:
            self._lane("our outages", outages)
        self._parts[behind:behind] = self._grid(top)
        self._scale()
        self._limit(top)
        self._fold(top)
        self._legend()
        self._notes()
        height = self._y + 8
        words = self._in_words()
        name = f"Session {self._picture.session_id}"
        fonts = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
        opening = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" aria-label={quoteattr(name)} font-family="{fonts}" font-size="12"{self._places()}>'
        )
        hatching = (
            f'<defs><pattern id="{self._hatch}" width="6" height="6" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><path d="M0 0V6" stroke="{_LIGHT["hatch"]}" stroke-width="2.4" '
            f'class="s-hatch"/></pattern></defs>'
        )
        paper = f'<rect width="{WIDTH}" height="{height}" fill="{_LIGHT["paper"]}" class="f-paper"/>'
        style = "" if self._in_page else f"<style>{STYLE}</style>"
        said = f"<title>{escape(name)}</title><desc>{escape(words)}</desc>"
        return "".join((opening, said, style, hatching, paper, *self._parts, "</svg>\n"))

    # The axis

    @property
    def axis(self) -> Axis:
        return self._axis

    def _places(self) -> str:
        """For a script that zooms by selection: where the axis lies, and what it is of."""
        if not self._in_page:
            return ""
        axis = self._axis
        return (
            f' data-left="{axis.left_px}" data-width="{axis.scaled_px}" data-from="{axis.start}" data-to="{axis.shown}"'
        )

    def _make_axis(self) -> Axis:
        if self._picture.window is not None:
            start, until = self._picture.window
            return window_of(start, until, left_px=_LEFT, width_px=WIDTH - _LEFT - _RIGHT)
        end = max(self._charge.timeline_end, self._charge.last_proof)
        if not end:
            end = self._evidence.time_limit or Micros(60_000_000)
        return axis_of(
            busy=Micros(min(end, self._busy())), end=Micros(end), left_px=_LEFT, width_px=WIDTH - _LEFT - _RIGHT
        )

    def _busy(self) -> Micros:
        """Where nothing but silence is left."""
        said = [one.end for one in self._evidence.timeline.segments if one.type is not SegmentType.SILENCE]
        billed = [piece.end for piece in self._charge.pieces if piece.reason is None]
        outages = [Micros(outage.end - self._origin) for outage in self._picture.outages]
        limit = self._evidence.time_limit
        busy = max(0, self._charge.last_proof, *said[-1:], *billed[-1:], *outages[-1:])
        near = limit is not None and limit <= NEAR_LIMIT * busy and limit < self._charge.timeline_end
        return Micros(max(busy, limit) if limit is not None and near else busy)

    def _grid(self, top: int) -> list[str]:
        lines = "".join(f"M{_px(self._axis.at(mark))} {top - 6}V{self._y + 8}" for mark in self._axis.marks())
        colour = f'stroke="{_LIGHT["line"]}" class="s-line"'
        return [
            f'<path d="{lines}" fill="none" stroke-width=".6" {colour}/>',
            f'<path d="M{_LEFT} {self._y + 4}H{WIDTH - _RIGHT}" fill="none" {colour}/>',
        ]

    def _scale(self) -> None:
        for mark in self._axis.marks():
            self._write(_px(self._axis.at(mark)), self._y + 22, clock(mark), "faint", anchor="middle")
        self._y += 40

    def _limit(self, top: int) -> None:
        limit = self._evidence.time_limit
        if limit is None or not self._axis.start <= limit <= self._axis.shown:
            return
        x, bottom = _px(self._axis.at(limit)), self._y - 36
        words = f"time limit {length(limit)}"
        anchor = "end" if float(x) > WIDTH * 0.7 else "start"
        self._parts.append(
            f'<path d="M{x} {top - 14}V{bottom}" fill="none" stroke="{_LIGHT["limit"]}" stroke-width="1.5" '
            f'stroke-dasharray="5 3" class="s-limit"><title>{escape(words)}</title></path>'
        )
        self._write(x, top - 18, words, "limit", anchor=anchor)

    def _fold(self, top: int) -> None:
        """What is folded is covered by a break in all lanes, and said in words."""
        if not self._axis.folded:
            return
        left, bottom = WIDTH - _RIGHT - FOLD_PX, self._y - 36
        zigzag = "".join(f"L{left + (8 if n % 2 else 0)} {y}" for n, y in enumerate(range(top - 6, bottom + 1, 8)))
        words = f"{length(self._axis.folded)} more, not to scale"
        self._parts.append(
            f'<path d="M{left} {top - 6}{zigzag}" fill="none" stroke="{_LIGHT["faint"]}" stroke-width="1.2" '
            f'class="s-faint"><title>{escape(words)}</title></path>'
        )
        self._write(WIDTH - _RIGHT, self._y - 2, f"+ {length(self._axis.folded)}", "faint", anchor="end")

    # Lanes

    def _heartbeats(self) -> None:
        found = places((beat - self._origin for beat in self._heard()), self._axis)
        self._label("heartbeats")
        middle = self._y + _BAR // 2
        if found:
            ticks = "".join(f"M{x} {middle - 8}v16" for x in found)
            words = f"{len(self._heard())} heartbeats"
            self._parts.append(
                f'<path d="{ticks}" fill="none" stroke="{_LIGHT["beat"]}" stroke-width="2" class="s-beat">'
                f"<title>{words}</title></path>"
            )
        else:
            self._write(_LEFT + 6, middle + 4, "none was received", "faint")
        self._y += _LANE

    def _heard(self) -> list[Instant]:
        return [beat for beat in self._evidence.heartbeats if beat >= self._evidence.requested_at]

    def _proven(self) -> list[Stretch]:
        return [
            Stretch("proven", one.start, one.end, _from_to("proven alive", one.start, one.end))
            for one in self._charge.envelopes
        ]

    def _outages(self) -> list[Stretch]:
        return [
            Stretch("outage", start, end, _from_to("we could not receive heartbeats", start, end))
            for outage in self._picture.outages
            for start, end in [(Micros(outage.start - self._origin), Micros(outage.end - self._origin))]
            if end > self._axis.start and start < self._axis.end
        ]

    def _lane(self, name: str, stretches: Sequence[Stretch]) -> None:
        self._label(name)
        many: dict[str, list[str]] = {}
        for block in blocks(stretches, self._axis):
            if block.words is None:
                many.setdefault(block.kind, []).append(_rectangle(block, self._y))
            else:
                self._block(block)
        for kind, drawn in many.items():
            colour = self._fill(kind)
            self._parts.append(f'<path d="{"".join(drawn)}" {colour}><title>{escape(kind)}</title></path>')
        self._y += _LANE

    def _block(self, block: Block) -> None:
        left, width = block.left, block.right - block.left
        self._parts.append(
            f'<rect x="{_px(left)}" y="{self._y}" width="{_px(width)}" height="{_BAR}" {self._fill(block.kind)}>'
            f"<title>{escape(block.words or '')}</title></rect>"
        )
        inside = block.kind if block.kind in _REASON_WORDS else ""
        if inside and len(inside) * _CHAR_PX * 10 < width:
            x, y = _px(left + width // 2), self._y + 15
            self._parts.append(
                f'<text x="{x}" y="{y}" text-anchor="middle" fill="{_LIGHT["ink"]}" stroke="{_LIGHT["paper"]}" '
                f'stroke-width="4" paint-order="stroke" class="f-ink s-paper">{escape(inside)}</text>'
            )

    def _fill(self, kind: str) -> str:
        if kind in _REASON_WORDS:
            return f'fill="url(#{self._hatch})" stroke="{_LIGHT["hatch"]}" stroke-width=".6" class="s-hatch"'
        return f'fill="{_LIGHT[kind]}" class="f-{kind}"'

    # Words

    def _head(self) -> None:
        picture, charge = self._picture, self._charge
        amount = format_credits(charge.amount)
        says = "charge" if picture.final else "accrued so far"
        self._parts.append(
            f'<text x="16" y="30" font-size="18" font-weight="600" fill="{_LIGHT["ink"]}" class="f-ink">'
            f'{escape(amount)} credits <tspan font-weight="400" font-size="13" fill="{_LIGHT["faint"]}" '
            f'class="f-faint">{says} · {escape(picture.state)}</tspan></text>'
        )
        billed = length(Micros(sum(charge.billed.values())))
        free = length(Micros(sum(charge.not_billed.values())))
        self._write(16, 50, f"{billed} billed, {free} not billed", "ink")
        self._write(WIDTH - _RIGHT, 30, picture.session_id, "faint", anchor="end")
        began = f"0:00 is {format_instant(self._origin)}, {charge.origin.quality.value}"
        self._write(WIDTH - _RIGHT, 50, began, "faint", anchor="end")

    def _label(self, name: str) -> None:
        self._write(_LEFT - 12, self._y + 15, name, "faint", anchor="end")

    def _legend(self) -> None:
        entries = [(kind, f"{TYPES[kind]} {length(time)}") for kind, time in self._time_by_type().items()]
        entries += [
            ("reduced" if kind == "reduced_rate" else str(kind), f"billed: {BILLED[kind]} {length(time)}")
            for kind, time in self._charge.billed.items()
            if kind == "reduced_rate"
        ]
        entries += [
            (REASONS[reason], f"not billed, {REASONS[reason]}: {length(time)}") for reason, time in self._free()
        ]
        column = (WIDTH - 32) // _LEGEND_COLUMNS
        self._y += 8
        for n, (kind, words) in enumerate(entries):
            x, y = 16 + n % _LEGEND_COLUMNS * column, self._y + n // _LEGEND_COLUMNS * _LEGEND_ROW
            self._parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" {self._fill(kind)}/>')
            self._write(x + 18, y + 10, words, "ink")
        self._y += -(-len(entries) // _LEGEND_COLUMNS) * _LEGEND_ROW

    def _time_by_type(self) -> dict[str, Micros]:
        counted: Counter[str] = Counter()
        for segment in self._evidence.timeline.segments:
            counted[segment.type.value] += segment.end - segment.start
        return {kind: Micros(counted[kind]) for kind in TYPES if counted[kind]}

    def _free(self) -> Iterable[tuple[Reason, Micros]]:
        return ((reason, self._charge.not_billed[reason]) for reason in REASONS if reason in self._charge.not_billed)

    def _notes(self) -> None:
        found = sorted(self._charge.anomalies)
        if found:
            self._y += 16
            told = ", ".join(ANOMALIES[one] for one in found)
            self._write(16, self._y, f"Anomalies: {told}", "limit")
        if self._charge.beyond_authorization:
            self._y += 16
            beyond = format_credits(self._charge.beyond_authorization)
            self._write(16, self._y, f"{beyond} credits beyond what was authorized are not charged", "limit")

    def _in_words(self) -> str:
        """What the picture shows, for whoever does not see it."""
        charge, picture = self._charge, self._picture
        says = "charged" if picture.final else "accrued so far"
        parts = [f"{format_credits(charge.amount)} credits {says}; the session is {picture.state}."]
        heard = self._heard()
        if heard:
            first, last = (clock(Micros(max(0, beat - self._origin))) for beat in (heard[0], heard[-1]))
            parts.append(f"{len(heard)} heartbeats from {first} to {last}.")
        else:
            parts.append("No heartbeat was received.")
        if charge.timeline_end:
            kinds = ", ".join(f"{TYPES[kind]} {length(time)}" for kind, time in self._time_by_type().items())
            parts.append(f"The timeline is {length(charge.timeline_end)} long: {kinds}.")
        billed = ", ".join(f"{BILLED[kind]} {length(time)}" for kind, time in charge.billed.items())
        parts.append(f"Billed: {billed or 'nothing'}.")
        free = ", ".join(f"{length(time)} {REASONS[reason]}" for reason, time in self._free())
        if free:
            parts.append(f"Not billed: {free}.")
        if self._evidence.time_limit is not None:
            parts.append(f"The time limit is {length(self._evidence.time_limit)}.")
        parts += [f"{outage.words[0].upper()}{outage.words[1:]}." for outage in self._outages()]
        if charge.anomalies:
            parts.append("Anomalies: " + ", ".join(ANOMALIES[one] for one in sorted(charge.anomalies)) + ".")
        return " ".join(parts)

    def _write(self, x: float | str, y: int, words: str, colour: str, *, anchor: str = "start") -> None:
        end = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(
            f'<text x="{x}" y="{y}"{end} fill="{_LIGHT[colour]}" class="f-{colour}">{escape(words)}</text>'
        )


_REASON_WORDS: Final = frozenset(REASONS.values())


def _said(segment: Segment) -> Stretch:
    kind = segment.type.value
    return Stretch(kind, segment.start, segment.end, _from_to(TYPES[kind], segment.start, segment.end))


def _billed(piece: Piece) -> Stretch:
    kind = "reduced" if piece.reduced else piece.type.value
    words = "reduced silence" if piece.reduced else TYPES[piece.type.value]
    return Stretch(kind, piece.start, piece.end, _from_to(f"billed, {words}", piece.start, piece.end))


def _not_billed(piece: Piece) -> Stretch:
    if piece.reason is None:
        raise ValueError("the piece is billed")
    kind = REASONS[piece.reason]
    words = f"not billed, {TYPES[piece.type.value]}: {kind}"
    return Stretch(kind, piece.start, piece.end, _from_to(words, piece.start, piece.end))


def _from_to(words: str, start: Micros, end: Micros) -> str:
    return f"{words}, {clock(Micros(max(0, start)))} to {clock(end)} ({length(Micros(end - start))})"


def _rectangle(block: Block, y: int) -> str:
    width = _px(block.right - block.left)
    return f"M{_px(block.left)} {y}h{width}v{_BAR}h-{width}z"


def _px(tenths: int) -> str:
    whole, tenth = divmod(tenths, 10)
    return f"{whole}.{tenth}" if tenth else str(whole)
