"""Pages from templates: everything that comes from outside is escaped, and a value that is missing is an error."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

from app.core.units import US_PER_S, Instant, MicroCredits, Micros, format_credits, parse_instant
from app.http.answers import encode
from app.pictures.words import ANOMALIES, REASONS
from app.web.assets import Assets

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'"
)
"""Content-Security-Policy of all pages, but for who may frame them: own files only, nothing that stands in the page."""

HEADERS: Final = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    # Without the referrer, a form's own origin would arrive as null.
    "Referrer-Policy": "same-origin",
}

DONE: Final[Mapping[str, str]] = {
    "grant": "The credits were granted.",
    "adjust": "The balance was adjusted.",
    "void": "What was left of the grant was taken back.",
    "limits": "The limits and prices were changed.",
    "alerts": "The alert thresholds were changed.",
    "token": "The token was made.",
    "portal-link": "The link was made.",
    "review": "The review was decided.",
    "payment-resolve": "The payment was decided.",
    "refund": "The credits were given back.",
    "rerate": "The session was rated again.",
    "reconcile": "The timeline was pulled.",
    "api-key": "The key was made.",
    "revoke": "The key was revoked.",
    "endpoint": "The endpoint was made.",
    "endpoint-change": "The endpoint was changed.",
    "endpoint-delete": "The endpoint was deleted.",
    "endpoint-rotate": "The endpoint has another secret.",
    "endpoint-test": "A test event is on its way.",
    "endpoint-replay": "The events are on their way again.",
    "endpoint-retry": "The dead letters are tried again.",
    "event-again": "The event is on its way again.",
    "admin-new": "The account was made.",
    "admin-password": "The account has another password.",
    "admin-change": "The account was changed.",
    "starts": "What holds for starts was changed.",
    "end": "The provider was asked to end the session.",
    "publish": "The version was published.",
    "simulate": "It was asked for, and is made in the background.",
}
"""What is said of an action that was done, by its name."""

_TOLD: Final[Mapping[str, str]] = {name.value: told for name, told in (*REASONS.items(), *ANOMALIES.items())}
_ANOMALY: Final = re.compile("|".join(rf"\b{name.value}\b" for name in ANOMALIES))
_MICRO: Final = Decimal("0.000001")
_DAY_S: Final = 86_400
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Renderer:
    """Makes pages of templates."""

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=PackageLoader("app.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(asset=assets.address, DONE=DONE)
        self._environment.filters.update(_FILTERS)

    def text(self, template: str, values: Mapping[str, Any]) -> str:
        return self._environment.get_template(template).render(values)

    def page(
        self, template: str, values: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] = HEADERS
    ) -> HTMLResponse:
        """A page. Raises ``jinja2.UndefinedError`` for a value that the template needs and does not get."""
        return HTMLResponse(self.text(template, values), status, dict(headers))


def grouped(amount: str) -> str:
    """An amount with its thousands apart: ``1,234,567.5``."""
    sign = "−" if amount.startswith("-") else ""
    whole, point, rest = amount.removeprefix("-").partition(".")
    return f"{sign}{int(whole):,}{point}{rest}"


def micro(amount: MicroCredits) -> str:
    """An amount that is no text yet."""
    return grouped(format_credits(amount))


def shortened(amount: str) -> str:
    """An amount of up to 12 decimals to the nearest micro-credit, which is all that anybody pays."""
    told = f"{Decimal(amount).quantize(_MICRO):f}".rstrip("0").rstrip(".")
    return grouped("0" if told == "-0" else told)


def signed(amount: str) -> str:
    """The same with its sign, also where it is positive."""
    return grouped(amount) if amount.startswith("-") or not amount.strip("0.") else f"+{grouped(amount)}"


def shown_instant(text: str | None) -> Markup:
    """An instant of a document for the eye, in UTC to the second; all its digits are in the tip."""
    if text is None:
        return Markup('<span class="none">–</span>')
    return Markup('<time datetime="{}" title="{}">{}</time>').format(text, text, instant_text(text))


def instant_text(text: str) -> str:
    """An instant in UTC to the second: ``31 Jan 2026, 12:00:05``."""
    moment = _moment(text)
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}, {moment:%H:%M:%S}"


def shown_day(text: str | None) -> Markup:
    """The day (UTC) of an instant."""
    if text is None:
        return Markup('<span class="none">–</span>')
    moment = _moment(text)
    told = f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(text, text, told)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def ago(text: str | None, now: Instant) -> str:
    """How long ago an instant was, or how far off it is: ``3 min ago``, ``now``, ``in 2 days``."""
    if text is None:
        return "never"
    passed = now - parse_instant(text)
    if abs(passed) < US_PER_S:
        return "now"
    told = _roughly(abs(passed) // US_PER_S)
    return f"{told} ago" if passed >= 0 else f"in {told}"


def _roughly(seconds: int) -> str:
    for size, name in ((_DAY_S, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {name}s" if name == "day" and count > 1 else f"{count} {name}"
    return f"{seconds} s"


def span(seconds: Decimal | float | str | None) -> str:
    """A duration of a document (seconds) in words, to the millisecond at most: ``2 min 10 s``, ``0.25 s``."""
    if seconds is None:
        return "–"
    us = Micros(int(Decimal(str(seconds)) * US_PER_S))
    minutes, rest = divmod(us, 60 * US_PER_S)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    second = Decimal(rest // 1000) / 1000
    parts = [f"{count} {name}" for count, name in ((days, "d"), (hours, "h"), (minutes, "min")) if count]
    if second or not parts:
        parts.append(f"{second.normalize():f} s")
    return " ".join(parts)


def whole_span(seconds: Decimal) -> str:
    """A duration in whole seconds, for what changes all the time."""
    return span(int(seconds))


def as_json(value: Any) -> str:
    """A document of the API's as it would be sent."""
    return "–" if value is None else encode(value).decode()


def segment(text: str) -> str:
    """A text as one segment of an address."""
    return quote(text, safe="")


def reason(name: str) -> str:
    """Why time is not billed, or what is odd about evidence, as pictures say it."""
    return _TOLD.get(name) or words(name)


def told(text: str) -> str:
    """A reason that was written down, with what is odd about evidence in words where it is named."""
    return _ANOMALY.sub(lambda found: _TOLD[found[0]], text)


def words(name: str) -> str:
    """A name of the API's as words: ``after_last_proof`` → ``after last proof``."""
    return name.replace("_", " ").replace(".", " · ")


_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "ago": ago,
    "credits": grouped,
    "day": shown_day,
    "instant": shown_instant,
    "json": as_json,
    "micro": micro,
    "reason": reason,
    "segment": segment,
    "shortened": shortened,
    "signed": signed,
    "span": span,
    "told": told,
    "whole_span": whole_span,
    "words": words,
}
